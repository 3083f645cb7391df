"""Upload of a ``BiRQModel`` to the Hugging Face hub, without paths of the machine that trained it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import ModelCard
from nemo.core import ModelPT
from omegaconf import open_dict

from nemo_birq.checkpoint.model_card import build_card

DATA_NODES = ("train_ds", "validation_ds", "test_ds")
"""Nodes of a model configuration that name files of the machine."""


@contextmanager
def without_data_nodes(model: ModelPT) -> Iterator[None]:
    """Removes the data nodes from the configuration of a model within the block."""
    with open_dict(model._cfg):
        nodes = {name: model._cfg.pop(name) for name in DATA_NODES if name in model._cfg}
    try:
        yield
    finally:
        with open_dict(model._cfg):
            model._cfg.update(nodes)


def push_to_hf_hub(model: ModelPT, repo_id: str, **options: Any) -> str:
    """Uploads a model with its card, and without the paths of its data; the arguments are those of NeMo's method.

    Returns:
        The URL of the repository.
    """
    with without_data_nodes(model):
        return ModelPT.push_to_hf_hub(model, repo_id, **options)


def generate_model_card(
    model: ModelPT, type: str = "hf", template: str | None = None, template_kwargs: dict | None = None
) -> ModelCard | str:
    """Returns the README.md of ``push_to_hf_hub``; with a custom ``template``, NeMo's method creates it."""
    if template is not None or type != "hf":
        return ModelPT.generate_model_card(model, type, template, template_kwargs)
    repo_id = (template_kwargs or {}).get("repo_id")
    return build_card(model, repo_id.split("/")[-1] if repo_id else "model", repo_id)
