"""The keys of ``model.birq``: names, defaults and ranges. conf/labels/ holds the presets and says why."""

from dataclasses import dataclass, field
from typing import Any

from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


@dataclass
class QuantizerConfig:
    """Fixed random projections and the codebook, shared by both labelers."""

    num_codes: int = 8192
    code_dim: int = 16
    num_books: int = 1
    seed: int = 0
    checksum: str | None = None
    """Of projections and codebook; written when they are drawn, compared whenever they are needed again."""
    tensors: str | None = None
    """File inside a ``.nemo`` that holds them; written by ``save_to``."""


@dataclass
class MaskingConfig:
    """See ``masking.SpanMasking``."""

    start_probability: float = 0.01
    span_frames: int = 40
    noise_std: float = 0.1
    threshold: float = 0.8


@dataclass
class LabelsConfig:
    """The enhanced labels; see ``enhanced_labeler.EnhancedLabeler`` and ``layer_normalization.LayerNormalization``."""

    layer: Any = 0.7
    normalization: str = "per_feature"
    statistics: str = "batch"
    momentum: float = 0.9
    logit_scale: float = 40.0
    temperature: float = 0.5
    hard: bool = False
    label_gradient: float = 0.0
    label_dropout: bool = False
    codebook: str = "random"
    """``random``: that of the anchor labels, as in the paper; ``tracked``: its own, see ``codebook_tracking``."""
    code_dim: int | None = None
    """d of a tracked codebook; None: that of the quantizer."""
    codebook_momentum: float = 0.99


@dataclass
class RelabellingConfig:
    """Offline relabelling, the second stage of HuBERT; see docs/relabelling.md."""

    teacher: str | None = None
    """File that scripts/cluster_labels.py wrote, whose labels take the place of the anchor labels; None: none."""
    checksum: str | None = None
    """Of the teacher; written when it is read, compared whenever it is read again."""


@dataclass
class LossConfig:
    """See ``bilevel_loss.WeightSchedule`` and ``fused_cross_entropy``; ``head`` is ``shared`` or ``separate``."""

    enhanced_weight: float = 0.1
    anchor_weight: float = 2.4
    start_step: int = 0
    ramp_steps: int = 0
    head: str = "shared"
    chunk_frames: int = 256
    """Masked frames whose logits over all codes are in memory at a time; another value draws other Gumbel noise."""


@dataclass
class WatchConfig:
    """What is measured beside training, and when an alarm is due; see docs/reading_the_curves.md."""

    gradient_interval: int = 200
    """Steps between two comparisons of the tasks' gradients, which cost about two backward passes; 0: never."""
    probe_seconds: float = 15.0
    """Audio of each rank whose labels are made again at every logged step, to see how many changed; 0: none."""
    learned_by_step: int = 5000
    """Step by which the anchor loss must be below its unigram entropy; a run that is not there is told so."""


@dataclass
class BiRQConfig:
    """Everything that BiRQ adds to a NeMo self-supervised model."""

    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    relabelling: RelabellingConfig = field(default_factory=RelabellingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: int = 0
    """Of masks and Gumbel noise; drawn anew for each rank, step and batch."""


def parse(node: DictConfig | dict | None) -> BiRQConfig:
    """Checks ``model.birq`` and fills in defaults.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its range; the message names the key.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(BiRQConfig), node or {})
        config: BiRQConfig = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise ValueError(f"model.birq: {error}") from error
    quantizer, masking, labels, loss = config.quantizer, config.masking, config.labels, config.loss
    _require(quantizer.num_codes >= 2, "quantizer.num_codes", quantizer.num_codes, "at least 2")
    _require(quantizer.code_dim >= 1, "quantizer.code_dim", quantizer.code_dim, "at least 1")
    _require(quantizer.num_books >= 1, "quantizer.num_books", quantizer.num_books, "at least 1")
    _require(0 < masking.start_probability < 1, "masking.start_probability", masking.start_probability, "in (0, 1)")
    _require(masking.span_frames >= 1, "masking.span_frames", masking.span_frames, "at least 1 frame of 10 ms")
    _require(masking.noise_std >= 0, "masking.noise_std", masking.noise_std, "at least 0")
    _require(0 <= masking.threshold < 1, "masking.threshold", masking.threshold, "in [0, 1)")
    number = isinstance(labels.layer, int | float) and not isinstance(labels.layer, bool)
    _require(number, "labels.layer", labels.layer, "a layer number, or a fraction of the depth such as 0.7")
    kinds = ("per_feature", "whiten", "layer_norm")
    _require(labels.normalization in kinds, "labels.normalization", labels.normalization, f"one of {kinds}")
    sources = ("batch", "running")
    _require(labels.statistics in sources, "labels.statistics", labels.statistics, f"one of {sources}")
    _require(0 <= labels.momentum < 1, "labels.momentum", labels.momentum, "in [0, 1)")
    _require(labels.logit_scale > 0, "labels.logit_scale", labels.logit_scale, "above 0; labels are noise far below 40")
    _require(labels.temperature > 0, "labels.temperature", labels.temperature, "above 0; the paper has 0.5")
    books = ("random", "tracked")
    _require(labels.codebook in books, "labels.codebook", labels.codebook, f"one of {books}")
    own = labels.code_dim is None or (labels.codebook == "tracked" and labels.code_dim >= 1)
    _require(own, "labels.code_dim", labels.code_dim, "null; at least 1 with labels.codebook=tracked")
    _require(0 <= labels.codebook_momentum < 1, "labels.codebook_momentum", labels.codebook_momentum, "in [0, 1)")
    _require(labels.label_gradient >= 0, "labels.label_gradient", labels.label_gradient, "at least 0; 1 is the paper")
    _require(loss.enhanced_weight >= 0, "loss.enhanced_weight", loss.enhanced_weight, "at least 0; 0 is BEST-RQ")
    _require(loss.anchor_weight >= 0, "loss.anchor_weight", loss.anchor_weight, "at least 0")
    weights = (loss.enhanced_weight, loss.anchor_weight)
    _require(any(weights), "loss.{enhanced,anchor}_weight", weights, "not both 0: nothing would be learned")
    _require(loss.start_step >= 0, "loss.start_step", loss.start_step, "at least 0")
    _require(loss.ramp_steps >= 0, "loss.ramp_steps", loss.ramp_steps, "at least 0")
    _require(loss.chunk_frames >= 1, "loss.chunk_frames", loss.chunk_frames, "at least 1 frame")
    _require(loss.head in ("shared", "separate"), "loss.head", loss.head, "'shared' or 'separate'")
    if config.relabelling.teacher is not None:
        needed = "with model.birq.relabelling.teacher: the teacher's labels take the place of all others"
        _require(loss.enhanced_weight == 0, "loss.enhanced_weight", loss.enhanced_weight, f"0 {needed}")
        _require(quantizer.num_books == 1, "quantizer.num_books", quantizer.num_books, f"1 {needed}")
    watch = config.watch
    _require(watch.gradient_interval >= 0, "watch.gradient_interval", watch.gradient_interval, "at least 0; 0 is never")
    _require(watch.probe_seconds >= 0, "watch.probe_seconds", watch.probe_seconds, "at least 0; 0 is no probe")
    _require(watch.learned_by_step >= 0, "watch.learned_by_step", watch.learned_by_step, "at least 0")
    return config


def check_modules(cfg: DictConfig, birq: BiRQConfig) -> None:
    """What the configuration's modules must have in common, before any of them is built."""
    encoder, quantizer = cfg.encoder, birq.quantizer
    if encoder.get("reduction") or encoder.get("feat_out", -1) not in (-1, encoder.d_model):
        raise ValueError("model.encoder: reduction and feat_out are not supported, layer k must have the encoder's width")
    head = cfg.decoder
    if not str(head.get("_target_")).endswith(".MultiSoftmaxDecoder"):
        raise ValueError(f"model.decoder._target_={head.get('_target_')}: the prediction head must be a MultiSoftmaxDecoder")
    sizes = {"num_classes": quantizer.num_codes, "num_decoders": quantizer.num_books, "feat_in": encoder.d_model}
    for key, needed in sizes.items():
        if head.get(key, 1) != needed:
            raise ValueError(f"model.decoder.{key}={head.get(key)} does not fit: quantizer and encoder need {needed}")
    if cfg.preprocessor.get("normalize") != "per_feature":
        logging.warning(
            f"model.preprocessor.normalize={cfg.preprocessor.get('normalize')}: the anchor labels of features that are not "
            "normalized per feature over time collapse onto few codes. Use per_feature."
        )


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"model.birq.{key}={value} is not allowed: it must be {allowed}")
