"""The keys of ``model.birq``: names, defaults and ranges.

The defaults are those of conf/objective/default.yaml, which says why; the other presets name what they change.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException


@dataclass
class QuantizerConfig:
    """Fixed random projections and the codebook, shared by both labelers."""

    num_codes: int = 8192
    """V, codes of a codebook."""
    code_dim: int = 16
    """d, dimension of a code."""
    num_books: int = 1
    """H, number of codebooks."""
    seed: int = 0
    """Seed of projections and codebooks."""
    checksum: str | None = None
    """Checksum of projections and codebook; written when they are drawn, compared whenever they are needed again."""
    tensors: str | None = None
    """File inside a ``.nemo`` that holds them; written by ``save_to``."""


@dataclass
class MaskingConfig:
    """Masking of the input; see ``modules.masking.SpanMasking``."""

    start_probability: float = 0.01
    """Probability that a span starts at a frame of 10 ms."""
    span_frames: int = 40
    """Length of a span in frames of 10 ms."""
    noise_std: float = 0.1
    """Standard deviation of the noise that replaces masked frames."""
    threshold: float = 0.8
    """Share of its input frames above which an encoder frame counts as masked."""


@dataclass
class LabelsConfig:
    """The enhanced labels; see ``labels.enhanced`` and ``labels.normalization``."""

    layer: Any = 0.7
    """k: a whole number is the layer itself, a fraction is one of the depth."""
    normalization: str = "per_feature"
    """Normalization of layer k: ``per_feature``, ``whiten`` or ``layer_norm``."""
    momentum: float = 0.9
    """Weight of the past in the running averages that inference uses."""
    logit_scale: float = 40.0
    """Factor on the inner products of frames and codes."""
    temperature: float = 0.5
    """tau of the Gumbel-softmax."""
    hard: bool = False
    """Use one-hot labels with the gradient of the soft ones."""
    label_gradient: float = 0.0
    """Factor on the gradient through the labels; 1 is the paper."""
    label_dropout: bool = False
    """Keep dropout on in the label pass."""
    codebook: str = "random"
    """``random``: that of the anchor labels, as in the paper; ``tracked``: its own, see ``labels.tracked_codebook``."""
    code_dim: int | None = None
    """d of a tracked codebook; None: that of the quantizer."""
    codebook_momentum: float = 0.99
    """Weight of the past in the moving averages of a tracked codebook."""


@dataclass
class RelabellingConfig:
    """Offline relabelling, the second stage of HuBERT; see docs/relabelling.md."""

    teacher: str | None = None
    """File that scripts/cluster_labels.py wrote, whose labels take the place of the anchor labels; None: none."""
    checksum: str | None = None
    """Checksum of the teacher; written when it is read, compared whenever it is read again."""


@dataclass
class LossConfig:
    """Weights and heads of both tasks; see ``losses.bilevel`` and ``losses.fused_cross_entropy``."""

    enhanced_weight: float = 0.5
    """w1; 0 is BEST-RQ."""
    anchor_weight: float = 1.0
    """w2."""
    start_step: int = 0
    """Optimizer step at which w1 begins to rise. The default preset takes it from ``enhanced_start_step``."""
    ramp_steps: int = 0
    """Steps over which w1 rises. The default preset takes it from ``enhanced_ramp_steps``."""
    head: str = "separate"
    """``shared``: one prediction head for both tasks; ``separate``: one for each."""
    chunk_frames: int = 256
    """Masked frames whose logits over all codes are in memory at a time."""


@dataclass
class WatchConfig:
    """Measurements beside training, and when an alarm is due; see docs/reading_the_curves.md."""

    gradient_interval: int = 200
    """Steps between two comparisons of the tasks' gradients, which cost about two backward passes; 0: never."""
    probe_seconds: float = 15.0
    """Audio of each rank whose labels are made again at every logged step, to see how many changed; 0: none."""
    learned_by_step: int = 5000
    """Step by which the anchor loss must be below its unigram entropy; else there is an alarm."""


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
    """Seed of masks and Gumbel noise, which differ for each rank, step and batch."""


RETIRED = {"labels.statistics": "batch"}
"""Keys of earlier versions, with the one value that they may still have: files of that time hold them."""


def parse(node: DictConfig | dict | None) -> BiRQConfig:
    """Checks ``model.birq`` and fills in defaults.

    Raises:
        ValueError: an unknown key, a value of the wrong type or outside its range; the message names the key.
    """
    node = _without_retired(node or {})
    refuse_unknown_keys(node, OmegaConf.structured(BiRQConfig), "model.birq")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(BiRQConfig), node)
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


def _require(condition: bool, key: str, value: object, allowed: str) -> None:
    if not condition:
        raise ValueError(f"model.birq.{key}={value} is not allowed: it must be {allowed}")


def _without_retired(node: DictConfig | dict) -> DictConfig:
    node = OmegaConf.create(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node)
    for key, value in RETIRED.items():
        group, _, name = key.rpartition(".")
        inside = OmegaConf.select(node, group)
        if not OmegaConf.is_dict(inside) or name not in inside:
            continue
        found = inside.pop(name)
        if found != value:
            raise ValueError(f"model.birq.{key}={found} is no longer supported, only {value} is: remove the key")
    return node


def refuse_unknown_keys(node: DictConfig, known: DictConfig | Iterable[str], where: str) -> None:
    """Checks the keys of a node, and of the nodes inside it where ``known`` has their keys too.

    Args:
        node: of a configuration.
        known: the keys that it may have.
        where: its own key, for the message; empty for the root.

    Raises:
        ValueError: an unknown key; the message names the nearest known one.
    """
    names = list(known)
    for key in node:
        prefix = f"{where}." if where else ""
        if key not in names:
            near = get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"the known ones are {', '.join(sorted(names))}"
            raise ValueError(f"{prefix}{key} is no key of the configuration: {hint}")
        inside = known._get_node(key) if isinstance(known, DictConfig) else None
        if OmegaConf.is_dict(inside) and OmegaConf.is_dict(node._get_node(key)):
            refuse_unknown_keys(node[key], inside, f"{prefix}{key}")
