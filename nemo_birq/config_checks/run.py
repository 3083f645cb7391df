"""The checks of a configuration for pretraining, in the order of its file."""

from dataclasses import fields, is_dataclass
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from pydantic import Field

from nemo_birq.config import BiRQConfig, parse, refuse_unknown_keys, resolve_layer
from nemo_birq.config_checks.data_files import find_unset, given
from nemo_birq.config_checks.datasets import PretrainingDataset, check_dataset
from nemo_birq.config_checks.experiment import Minutes, check_experiment, check_name
from nemo_birq.config_checks.modules import check_model_parts
from nemo_birq.config_checks.nodes import ABSENT, resolved
from nemo_birq.config_checks.optimizer import check_optim
from nemo_birq.config_checks.trainer import check_trainer_settings
from nemo_birq.utils.settings import Count, Flag, Name, Node, Positive, Seed, Text, Whole, read, refuse

ROOT_KEYS = (
    "name", "seed", "enhanced_start_step", "enhanced_ramp_steps", "model", "trainer", "exp_manager",
    "init_from_nemo_model", "init_from_pretrained_model", "init_from_ptl_ckpt", "like", "new_labels", "resume_with_changed",
    "checkpoint_minutes",
)  # fmt: skip
MODEL_KEYS = (
    "sample_rate", "train_ds", "validation_ds", "test_ds", "preprocessor", "encoder", "decoder", "birq", "card", "optim",
    "target", "nemo_version", "loss_list", "spec_augment", "pretraining",
)  # fmt: skip
"""Keys of a configuration in conf/, and those that NeMo and this package add to the configuration of a ``.nemo``."""
DATASETS = ("train_ds", "validation_ds", "test_ds")
FILES = ("manifest_filepath", "tarred_audio_filepaths", "input_cfg")
GROUPS = (
    dict.fromkeys(("model", "model.train_ds", "model.preprocessor", "model.encoder", "model.decoder", "model.optim"), ())
    | dict.fromkeys(("model.validation_ds", "model.test_ds", "model.card"), (None, ABSENT))
    | {"model.birq": (ABSENT,)}
    | {f"model.birq.{part.name}": (ABSENT,) for part in fields(BiRQConfig) if is_dataclass(part.type)}
    | {"trainer": (), "exp_manager": ()}
)
MAY_BE_MISSING = [f"model.{dataset}.{key}" for dataset in DATASETS for key in FILES]


class RootSettings(Node):
    """Values at the root of a configuration for pretraining."""

    name: Text | Whole = "BiRQ"
    seed: Seed = 0
    enhanced_start_step: Count = 0
    enhanced_ramp_steps: Count = 0
    init_from_nemo_model: Text | dict[str, Any] | None = None
    init_from_pretrained_model: Text | dict[str, Any] | None = None
    init_from_ptl_ckpt: Text | dict[str, Any] | None = None
    like: Flag | Text | None = None
    new_labels: Flag = False
    checkpoint_minutes: Minutes | None = None
    minutes: Annotated[Positive, Field(le=10**6)] = 5  # this key and the next one belong to birq check-labels
    picture: Name = "label_check.png"


class ModelSettings(Node):
    """Values of ``model`` that are not groups."""

    sample_rate: Annotated[Whole, Field(ge=1000, le=192000)] = 16000


class CardSettings(Node):
    """Values of ``model.card``."""

    license: Text | None = None
    language: Text | list[Text] | None = None
    datasets: Text | list[Text] | None = None


def check_run_keys(cfg: DictConfig, *others: str) -> None:
    """Checks every key and value of a run's configuration that can be checked without its data.

    The data need not be named yet; ``check_data_named`` checks that.

    Args:
        cfg: the whole configuration.
        others: further keys at the root that the command knows.

    Raises:
        ValueError: a key is unknown (the message names the nearest known one), or a value is out of range.
    """
    refuse_unknown_keys(cfg, (*ROOT_KEYS, *others), "")
    values = resolved(cfg, GROUPS, MAY_BE_MISSING)
    model = values["model"]
    refuse_unknown_keys(model, MODEL_KEYS, "model")
    root = read(RootSettings, {key: value for key, value in values.items() if key not in ("model", "trainer")}, "")
    check_name("name", root.name)
    trainer = check_trainer_settings(values["trainer"])
    check_experiment(values["exp_manager"], trainer)
    read(ModelSettings, {"sample_rate": model.get("sample_rate")}, "model")
    for dataset in DATASETS:
        if model.get(dataset) is not None:
            check_dataset(PretrainingDataset, model[dataset], f"model.{dataset}")
    birq = parse(model.get("birq"))
    check_model_parts(model, birq)
    resolve_layer(birq.labels.layer, model["encoder"]["n_layers"])
    read(CardSettings, model.get("card") or {}, "model.card")
    check_optim(model["optim"], trainer)


def check_data_named(model: DictConfig, *datasets: str) -> None:
    """Checks that the datasets of ``model`` name their data; a validation set may be null.

    One of ``input_cfg`` and ``manifest_filepath`` is enough. The other one becomes null if it is unset: NeMo refuses unset
    values.

    Args:
        model: node of the configuration.
        datasets: keys of the datasets, such as ``train_ds``.

    Raises:
        ValueError: the key that names the data is not set.
    """
    for dataset in datasets:
        node = model.get(dataset)
        if node is None:
            continue
        for key in find_unset(node):
            raise ValueError(f"model.{dataset}.{key} is not set: name the data with model.{dataset}.{key}={_example(key)}")
        for key in FILES:
            if OmegaConf.is_missing(node, key):
                node[key] = None
        if dataset == "train_ds" and not given(node, "input_cfg") and not given(node, "manifest_filepath"):
            refuse("model.train_ds.manifest_filepath", node.get("manifest_filepath"), "a manifest if input_cfg is null")


def _example(key: str) -> str:
    return {"manifest_filepath": "/data/manifest.json", "tarred_audio_filepaths": "/data/audio_0.tar"}.get(key, "data.yaml")
