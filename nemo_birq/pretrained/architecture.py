"""Checks that the preprocessor and the encoder of a model are those of the pretrained file.

NeMo's ``init_from_nemo_model`` copies the tensors that fit and silently skips the others: six layers fit into four, and
batch normalization into layer normalization, so training starts partly from scratch.
"""

import inspect
from collections.abc import Container
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict

# Keys that only matter during training, and do not change the function of the pretrained weights.
FREE_KEYS = {
    "preprocessor": {"dither", "pad_to"},
    "encoder": {
        "dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att", "stochastic_depth_drop_prob",
        "stochastic_depth_mode", "stochastic_depth_start_layer", "sync_max_audio_length", "use_pytorch_sdpa",
        "use_pytorch_sdpa_backends", "pos_emb_max_len",
    },
}  # fmt: skip


def take_architecture(model: DictConfig, source: DictConfig, path: str, chosen: Container[str] | None = None) -> None:
    """Fills ``model.preprocessor``, ``model.encoder`` and ``model.sample_rate`` from a pretrained configuration.

    Keys of ``FREE_KEYS``, such as dropout, may differ and stay as they are. Of the other keys, those that the user has set
    must have the values of the file, and the rest are replaced by them.

    Args:
        model: ``model`` node of a configuration.
        source: configuration of the model in ``path``.
        path: path of the file, for the message.
        chosen: keys that the user has set, such as ``model.encoder.n_layers``; None: all keys of the node.

    Raises:
        ValueError: values differ; the message lists the differences.
    """

    def is_chosen(key: str) -> bool:
        return chosen is None or key in chosen

    found = []
    if is_chosen("model.sample_rate") and model.sample_rate != source.sample_rate:
        found.append(f"model.sample_rate={model.sample_rate}; pretrained: {source.sample_rate}")
    with open_dict(model):
        for node, free in FREE_KEYS.items():
            own, theirs = plain(model.get(node)), plain(source[node])
            wanted = {key: value for key, value in own.items() if is_chosen(f"model.{node}.{key}")}
            found += [f"model.{node}.{line}" for line in differences(wanted, theirs, free)]
            model[node] = theirs | {key: value for key, value in own.items() if key in free} | wanted
        model.sample_rate = source.sample_rate
        if "model_defaults" in model:
            model.model_defaults.enc_hidden = model.encoder.d_model  # NeMo's RNNT classes read it there
    if found:
        raise ValueError(
            f"the encoder would differ from the one in {path}, and would start partly from scratch:\n  "
            + "\n  ".join(found)
            + "\nRemove these keys: preprocessor and encoder are taken from the file"
        )


def check_architecture(model: DictConfig, source: DictConfig, path: str) -> None:
    """Compares preprocessor and encoder of a configuration with a pretrained one, except for ``FREE_KEYS``.

    Raises:
        ValueError: values differ; the message lists the differences.
    """
    found = []
    for node, free in FREE_KEYS.items():
        own, theirs = plain(model[node]), plain(source[node])
        own = {key: _defaults(own).get(key) for key in theirs} | own
        found += [f"model.{node}.{line}" for line in differences(own, theirs, free)]
    if found:
        raise ValueError(
            f"the encoder would differ from the one in {path}, and would start partly from scratch:\n  "
            + "\n  ".join(found)
            + "\nSet these keys to the values of the file, or take all of them from it with like=true"
        )


def differences(own: dict, theirs: dict, free: set[str]) -> list[str]:
    """Lists the keys of ``own`` that differ from ``theirs``; an absent key has the default of the class."""
    defaults = _defaults(theirs)
    theirs = {key: theirs.get(key, defaults.get(key)) for key in own}
    written, pretrained = _written_out(own), _written_out(theirs)
    return [
        f"{key}={own[key]}; pretrained: {theirs[key]}"
        for key in sorted(own)
        if key not in free and written[key] != pretrained[key]
    ]


def _written_out(node: dict) -> dict[str, Any]:
    """Returns a node in which different spellings of the same value for ConformerEncoder are equal."""
    kernel = node.get("conv_kernel_size") or 1
    same = {
        "att_context_size": ((None,), [-1, -1]),
        "subsampling_conv_channels": ((-1,), node.get("d_model")),
        "conv_context_size": ((None,), [(kernel - 1) // 2] * 2),
        "feat_out": ((None,), -1),
    }
    return node | {key: value for key, (others, value) in same.items() if key in node and node[key] in others}


def _defaults(node: dict) -> dict[str, Any]:
    """Returns the defaults of the class of a node. Only NeMo's classes are imported, as a file must not run code."""
    return class_defaults(get_class(node["_target_"])) if node["_target_"].startswith("nemo.") else {}


def class_defaults(kind: type) -> dict[str, Any]:
    """Returns the defaults of the arguments of a class."""
    parameters = inspect.signature(kind).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def plain(node: DictConfig | None) -> dict[str, Any]:
    """Returns a node as a dictionary, with its interpolations resolved."""
    return {} if node is None else OmegaConf.to_container(node, resolve=True, throw_on_missing=False)
