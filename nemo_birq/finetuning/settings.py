"""Values of a configuration in conf/finetune, which are checked before any file is read."""

from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field

from nemo_birq.config import refuse_unknown_keys
from nemo_birq.config_checks.datasets import FinetuningDataset, check_dataset
from nemo_birq.config_checks.experiment import Minutes, check_experiment, check_name
from nemo_birq.config_checks.modules import check_encoder, check_preprocessor
from nemo_birq.config_checks.nodes import ABSENT, check_class, find_class, resolved
from nemo_birq.config_checks.optimizer import ParameterGroup, check_optim
from nemo_birq.config_checks.trainer import check_trainer_settings
from nemo_birq.utils.settings import (
    Count,
    Dropout,
    Flag,
    Name,
    Node,
    Real,
    Seed,
    Share,
    Size,
    Text,
    Whole,
    read,
    refuse,
)

ROOT_KEYS = (
    "name", "seed", "init_from_nemo_model", "from_scratch", "test_manifests", "fresh_layers", "freeze_encoder",
    "allow_unknown_symbols", "build_tokenizer", "model", "trainer", "exp_manager", "resume_with_changed",
    "checkpoint_minutes",
)  # fmt: skip
GROUPS = {
    "model": (), "model.train_ds": (), "model.validation_ds": (), "model.preprocessor": (None, ABSENT),
    "model.encoder": (None, ABSENT), "model.optim": (), "trainer": (), "exp_manager": (),
}  # fmt: skip
MAY_BE_MISSING = ("init_from_nemo_model", "model.train_ds.manifest_filepath", "model.validation_ds.manifest_filepath")
"""Keys that may be unset here; ``preparation.prepare`` checks them."""
PARTS = ("preprocessor", "encoder", "decoder", "joint", "ctc_decoder")
"""Parts of a recognizer that may have their own learning rate."""
Layers = Annotated[Whole, Field(ge=1, le=1000)]
Width = Annotated[Whole, Field(ge=1, le=65536)]


class TokenizerBuild(Node):
    """Values of ``build_tokenizer``."""

    vocab_size: Annotated[Whole, Field(ge=2, le=10**6)] = 256
    kind: Text = "unigram"  # vocabulary.build_tokenizer checks it


class TokenizerSettings(Node):
    """Values of ``model.tokenizer``."""

    dir: Name | None = None
    type: Literal["bpe", "wpe", "agg", "hf", "yttm"] = "bpe"


class AugmentationSettings(Node):
    """Arguments of NeMo's SpectrogramAugmentation."""

    freq_masks: Annotated[Whole, Field(ge=0, le=1000)] = 0
    freq_width: Annotated[Whole, Field(ge=0, le=1024)] = 10
    time_masks: Annotated[Whole, Field(ge=0, le=1000)] = 0
    time_width: Annotated[
        Count | Share, Field(json_schema_extra={"allowed": "a number of frames, or a share of them in [0.0, 1.0]"})
    ] = 10
    rect_masks: Annotated[Whole, Field(ge=0, le=1000)] = 0
    rect_time: Count = 5
    rect_freq: Count = 20
    mask_value: Real = 0.0


class PredictionNetwork(Node):
    """Values of ``model.decoder.prednet``."""

    pred_hidden: Width = 640
    pred_rnn_layers: Layers = 1
    dropout: Dropout = 0.0


class JointNetwork(Node):
    """Values of ``model.joint.jointnet``."""

    joint_hidden: Width = 640
    activation: Literal["relu", "sigmoid", "tanh"] = "relu"
    dropout: Dropout = 0.0


class DecoderSettings(Node):
    """Arguments of NeMo's CTC and RNNT decoders."""

    feat_in: Width | None = None
    num_classes: Annotated[Whole, Field(ge=-1, le=10**6)] = -1
    vocabulary: list[Text] | None = None
    normalization_mode: Literal["layer"] | None = None
    random_state_sampling: Flag = False
    blank_as_pad: Flag = True
    prednet: PredictionNetwork | None = None


class JointSettings(Node):
    """Arguments of NeMo's RNNT joint network."""

    log_softmax: Flag | None = None
    preserve_memory: Flag = False
    fuse_loss_wer: Flag = False
    fused_batch_size: Size | None = None
    jointnet: JointNetwork | None = None


class GreedySettings(Node):
    """Values of ``model.decoding.greedy``."""

    max_symbols: Size | None = 10


class DecodingSettings(Node):
    """Values of ``model.decoding``."""

    strategy: Literal[
        "greedy", "greedy_batch", "beam", "beam_batch", "pyctcdecode", "flashlight", "wfst", "tsd", "alsd", "maes",
        "maes_batch", "malsd_batch",
    ] = "greedy"  # fmt: skip
    greedy: GreedySettings | None = None


class WarpSettings(Node):
    """Arguments of the RNNT loss."""

    fastemit_lambda: Annotated[Real, Field(ge=0, le=1000)] = 0.0
    clamp: Real = -1.0


class LossSettings(Node):
    """Values of ``model.loss``."""

    loss_name: Name = "default"
    warprnnt_numba_kwargs: WarpSettings | None = None


class AuxiliaryHead(Node):
    """Values of ``model.aux_ctc``."""

    ctc_loss_weight: Share = 0.5
    use_cer: Flag = False
    ctc_reduction: Literal["none", "mean", "sum", "mean_batch", "mean_volume"] = "mean_batch"
    decoder: DecoderSettings | None = None
    decoding: DecodingSettings | None = None


class WidthSettings(Node):
    """Values of ``model.model_defaults``."""

    enc_hidden: Width | None = None
    pred_hidden: Width = 640
    joint_hidden: Width = 640


class ModelSettings(Node):
    """Values of ``model`` that no other module checks."""

    target: Name = ""
    sample_rate: Annotated[Whole, Field(ge=1000, le=192000)] = 16000
    log_prediction: Flag = False
    use_cer: Flag = False
    labels: Annotated[list[Annotated[Text, Field(min_length=1, max_length=1)]], Field(min_length=1)] | None = None
    tokenizer: TokenizerSettings | None = None
    spec_augment: AugmentationSettings | None = None
    optim_param_groups: dict[str, ParameterGroup] | None = None
    model_defaults: WidthSettings | None = None
    decoder: DecoderSettings | None = None
    joint: JointSettings | None = None
    decoding: DecodingSettings | None = None
    loss: LossSettings | None = None
    aux_ctc: AuxiliaryHead | None = None


class RootSettings(Node):
    """Values at the root; ``freezing`` and ``initialization`` check freeze_encoder and fresh_layers."""

    name: Text | Whole = ""
    checkpoint_minutes: Minutes | None = None
    seed: Seed = 0
    from_scratch: Flag = False
    allow_unknown_symbols: Flag = False
    init_from_nemo_model: Text | dict[str, Any] | None = None
    test_manifests: Name | list[Name] | None = None
    build_tokenizer: TokenizerBuild | None = None


def check_finetuning_keys(cfg: DictConfig) -> None:
    """Checks every key and value that can be checked without the pretrained file and the data.

    Raises:
        ValueError: a key is unknown (the message names the nearest known one), or a value is out of range.
    """
    refuse_unknown_keys(cfg, ROOT_KEYS, "")
    values = resolved(cfg, GROUPS, MAY_BE_MISSING)
    model = values["model"]
    root = read(RootSettings, {key: value for key, value in values.items() if key not in ("model", "trainer")}, "")
    check_name("name", root.name)
    trainer = check_trainer_settings(values["trainer"])
    if trainer.fast_dev_run:
        refuse("trainer.fast_dev_run", trainer.fast_dev_run, "false: the folder must hold the final recognizer")
    check_experiment(values["exp_manager"], trainer)
    for dataset in ("train_ds", "validation_ds"):
        check_dataset(FinetuningDataset, model[dataset], f"model.{dataset}")
    read(ModelSettings, model, "model")
    for part in ("spec_augment", "decoder", "joint"):
        if model.get(part) is not None and "_target_" in model[part]:
            check_class(model[part], f"model.{part}")
    for group in model.get("optim_param_groups") or {}:
        refuse_unknown_keys({group: None}, PARTS, "model.optim_param_groups")
    find_class("model.target", model.get("target"))
    check_preprocessor(model.get("preprocessor") or {}, None)
    check_encoder(model.get("encoder") or {})
    check_optim(model["optim"], trainer)
