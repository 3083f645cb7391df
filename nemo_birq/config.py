"""The keys of ``model.birq``: names, defaults and ranges.

The defaults are those of conf/objective/default.yaml, which gives the reasons. The other presets list what they change.
"""

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from itertools import pairwise
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field

from nemo_birq.utils.settings import Count, Flag, Real, Seed, Size, Text, Whole, read, refuse

MOST_MATCHED = 16384  # most codes that are matched with their previous values: the time grows with the third power
LAYER = "a layer number, or a fraction of the depth such as 0.7"


@dataclass
class QuantizerConfig:
    """Fixed random projections and the codebook, shared by both labelers."""

    num_codes: Annotated[Whole, Field(ge=2, le=10**6)] = 8192
    """V, number of codes of a codebook."""
    code_dim: Annotated[Whole, Field(ge=1, le=65536)] = 16
    """d, dimension of a code."""
    num_books: Annotated[Whole, Field(ge=1, le=256)] = 1
    """H, number of codebooks."""
    seed: Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)] = 0
    """Seed of projections and codebooks."""
    checksum: Text | None = None
    """Checksum of projections and codebook, written when they are drawn and compared whenever they are loaded."""
    tensors: Text | None = None
    """Name of the file inside a ``.nemo`` that holds projections and codebook; ``save_to`` writes it."""


@dataclass
class AnchorConfig:
    """Fitting of the anchor labels' quantizer to the first frames of a run; see ``labels.fitting``."""

    normalization: Literal["per_feature"] | None = None
    """``per_feature``: the labeler normalizes each feature over the utterance, for features that the preprocessor does not
    normalize, such as those of streaming encoders; None: the labeler uses the features that the encoder gets."""
    projection: Literal["random", "pca"] = "random"
    """Projection of the anchor labels: ``random``, as in BEST-RQ, or ``pca``, principal components of stacked frames."""
    codes: Literal["random", "kmeans"] = "random"
    """Codes of the anchor labels: ``random``, as in BEST-RQ, or ``kmeans``, fitted on the unit sphere."""
    fit_steps: Annotated[Whole, Field(ge=1, le=10000)] = 50
    """Optimizer steps over which frames are gathered, also for ``labels.projection``; until the fit, labels are random."""
    fit_frames: Annotated[Whole, Field(ge=1, le=10**7)] = 100_000
    """Largest number of gathered frames over all ranks; they stay in memory until the fit."""
    refine_steps: list[Annotated[Whole, Field(ge=1, le=10**9)]] = field(default_factory=list)
    """Optimizer steps at which a new gathering of frames begins, to refine the codes of ``kmeans``."""

    @property
    def fitted(self) -> bool:
        """True if anything is fitted."""
        return self.projection != "random" or self.codes != "random"


@dataclass
class MaskingConfig:
    """Masking of the input; see ``modules.masking.SpanMasking``."""

    start_probability: Annotated[Real, Field(gt=0, lt=1)] = 0.01
    """Probability that a span starts at a frame of 10 ms."""
    span_frames: Annotated[Whole, Field(ge=1, le=10000)] = 40
    """Length of a span in frames of 10 ms."""
    noise_std: Annotated[Real, Field(ge=0, le=1000)] = 0.1
    """Standard deviation of the noise that replaces masked frames."""
    threshold: Annotated[Real, Field(ge=0, lt=1)] = 0.8
    """Share of its input frames above which an encoder frame counts as masked."""


@dataclass
class LabelsConfig:
    """The enhanced labels; see ``labels.enhanced`` and ``labels.normalization``."""

    layer: Annotated[Whole | Real, Field(json_schema_extra={"allowed": LAYER})] = 0.7
    """k: a whole number is the number of the layer, a fraction is a share of the depth."""
    normalization: Literal["per_feature", "whiten", "layer_norm"] = "per_feature"
    """Normalization of layer k: ``per_feature``, ``whiten`` or ``layer_norm``."""
    momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.9
    """Weight of the past in the running averages that inference uses."""
    logit_scale: Literal["auto"] | Annotated[Real, Field(gt=0, le=10000, description="labels are noise far below 40")] = 40.0
    """Factor on the inner products of frames and codes; ``auto`` chooses it from the data, see ``labels.logit_scale``."""
    nearest_share: Annotated[Real, Field(gt=0, lt=1)] = 0.6
    """Mean probability of the nearest code that ``logit_scale=auto`` aims at."""
    temperature: Annotated[Real, Field(ge=0.001, le=1000, description="the paper has 0.5")] = 0.5
    """tau of the Gumbel-softmax; without effect if ``label_gradient`` is 0."""
    hard: Flag = False
    """Use one-hot labels with the gradient of the soft ones; if ``label_gradient`` is 0, use the nearest codes."""
    label_gradient: Annotated[Real, Field(ge=0, le=1000, description="1 is the paper")] = 0.0
    """Factor on the gradient through the labels; the paper has 1. With 0 the labels are softmax(s), without Gumbel noise."""
    context: Literal["first", "same", "full"] = "first"
    """Attention context of the label pass in an encoder with several look-aheads: ``first``, the context of inference;
    ``same``, the one drawn for the masked pass; ``full``, the whole utterance (causal convolutions stay causal)."""
    batch_norm: Literal["batch", "running"] = "batch"
    """Statistics of the encoder's batch normalization in the label pass: those of the unmasked batch, or the running
    statistics of the masked pass, which inference uses."""
    label_dropout: Flag = False
    """Keep dropout on in the label pass."""
    projection: Literal["random", "pca"] = "random"
    """Projection of layer k: ``random``, as in the paper, or ``pca``, principal components fitted when w1 rises above 0."""
    codebook: Literal["random", "tracked", "kmeans"] = "random"
    """``random``: the codebook of the anchor labels, as in the paper; ``tracked``: see ``labels.tracked_codebook``;
    ``kmeans``: fitted to the first frames at which w1 is above 0, see ``labels.fitting``."""
    code_dim: Annotated[Whole, Field(ge=1, le=65536)] | None = None
    """d of tracked or fitted codes; None: the value of ``quantizer.code_dim``."""
    codebook_momentum: Annotated[Real, Field(ge=0, lt=1)] = 0.99
    """Weight of the past in the moving averages of a tracked codebook."""
    refine_steps: list[Annotated[Whole, Field(ge=1, le=10**9)]] = field(default_factory=list)
    """Optimizer steps at which a new gathering of frames begins, to refine the codes of ``kmeans``."""

    @property
    def fitted(self) -> bool:
        """True if anything is fitted."""
        return self.projection != "random" or self.codebook == "kmeans"


@dataclass
class RelabellingConfig:
    """Offline relabelling, the second stage of HuBERT; see docs/relabelling.md."""

    teacher: Text | None = None
    """File that ``birq cluster-labels`` wrote; its labels replace the anchor labels. None: no teacher."""
    checksum: Text | None = None
    """Checksum of the teacher, written when it is read first and compared whenever it is read again."""


@dataclass
class LossConfig:
    """Weights and heads of both tasks; see ``losses.bilevel`` and ``losses.fused_cross_entropy``."""

    enhanced_weight: Annotated[Real, Field(ge=0, le=1000, description="0 is BEST-RQ")] = 0.5
    """w1, weight of the enhanced loss; 0 is BEST-RQ."""
    anchor_weight: Annotated[Real, Field(ge=0, le=1000)] = 1.0
    """w2, weight of the anchor loss."""
    start_step: Count = 0
    """Optimizer step at which w1 begins to rise. The default preset takes it from ``enhanced_start_step``."""
    ramp_steps: Count = 0
    """Steps over which w1 rises. The default preset takes it from ``enhanced_ramp_steps``."""
    head: Literal["shared", "separate"] = "separate"
    """``shared``: one prediction head for both tasks; ``separate``: one for each."""
    chunk_frames: Size | None = None
    """Number of masked frames whose logits over all codes are in memory at a time; null: 256 on a CPU, whose caches they
    fit, and as many as have 2^25 logits on a GPU, so that it launches few kernels."""


@dataclass
class WatchConfig:
    """Measurements during training, and a threshold of an alarm; see docs/reading_the_curves.md."""

    gradient_interval: Annotated[Count, Field(description="0 is never")] = 200
    """Steps between two comparisons of the tasks' gradients, which cost about two backward passes; 0: never."""
    probe_seconds: Annotated[Real, Field(ge=0, le=86400, description="0 is no probe")] = 15.0
    """Seconds of audio of each rank that are labelled at every logged step, to measure how many labels changed; 0: none."""
    learned_by_step: Count = 5000
    """Step by which the anchor loss must be below its unigram entropy; otherwise an alarm is raised."""


@dataclass
class BiRQConfig:
    """Everything that BiRQ adds to a NeMo self-supervised model."""

    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    anchor: AnchorConfig = field(default_factory=AnchorConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    relabelling: RelabellingConfig = field(default_factory=RelabellingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    seed: Seed = 0
    """Seed of masks and Gumbel noise. They differ for each rank, step and batch."""


RETIRED = {"labels.statistics": "batch"}
"""Keys of earlier versions with the only value that they may still have, because files of these versions hold them."""


def parse(node: DictConfig | dict | None) -> BiRQConfig:
    """Checks ``model.birq`` and fills in defaults.

    Raises:
        ValueError: a key is unknown, or a value has the wrong type or is out of range; the message names the key.
    """
    values = _without_retired({} if node is None else node)
    refuse_unknown_keys(values, asdict(BiRQConfig()), "model.birq")
    config = read(BiRQConfig, values, "model.birq")
    quantizer, labels, loss = config.quantizer, config.labels, config.loss
    if labels.code_dim is not None and labels.codebook == "random":
        refuse("model.birq.labels.code_dim", labels.code_dim, "null unless model.birq.labels.codebook is tracked or kmeans")
    _check_fits(config)
    if not loss.enhanced_weight and not loss.anchor_weight:
        weights = (loss.enhanced_weight, loss.anchor_weight)
        refuse("model.birq.loss.{enhanced,anchor}_weight", weights, "a pair with at least one weight above 0")
    if config.relabelling.teacher is not None:
        needed = "with model.birq.relabelling.teacher: the teacher's labels replace all others"
        if loss.enhanced_weight:
            refuse("model.birq.loss.enhanced_weight", loss.enhanced_weight, f"0 {needed}")
        if quantizer.num_books != 1:
            refuse("model.birq.quantizer.num_books", quantizer.num_books, f"1 {needed}")
        for key in ("projection", "codes"):
            if (value := getattr(config.anchor, key)) != "random":
                refuse(f"model.birq.anchor.{key}", value, f"random {needed}")
    return config


def _check_fits(config: BiRQConfig) -> None:
    """Checks that the settings of fitted labels fit each other."""
    anchor, labels, codes = config.anchor, config.labels, config.quantizer.num_codes
    least = max(anchor.fit_steps, codes if "kmeans" in (anchor.codes, labels.codebook) else 1)
    if (anchor.fitted or labels.fitted) and anchor.fit_frames < least:
        needed = (
            f"at least {least}: one frame for each of fit_steps, and with k-means codes one for each of quantizer.num_codes"
        )
        refuse("model.birq.anchor.fit_frames", anchor.fit_frames, needed)
    _check_refinement("anchor.codes", anchor.codes, "anchor.refine_steps", anchor.refine_steps, 0, config)
    start = config.loss.start_step
    _check_refinement("labels.codebook", labels.codebook, "labels.refine_steps", labels.refine_steps, start, config)


def _check_refinement(codes_key: str, codes: str, key: str, steps: list[int], start: int, config: BiRQConfig) -> None:
    """Checks the steps at which codes are refined after the fit that begins at ``start``."""
    apart, most = config.anchor.fit_steps, MOST_MATCHED
    if any(later - earlier < apart for earlier, later in pairwise([start, *steps])):
        needed = f"a list of ascending steps, at least fit_steps={apart} apart from each other and from {start}"
        refuse(f"model.birq.{key}", steps, needed)
    if steps and (codes != "kmeans" or config.quantizer.num_codes > most):
        needed = f"[] unless model.birq.{codes_key}=kmeans and quantizer.num_codes is at most {most}: matching is slow"
        refuse(f"model.birq.{key}", steps, needed)


def resolve_layer(layer: int | float, depth: int) -> int:
    """Returns layer k as a number in 1..L. A float is a fraction of the depth (0.7 of 10 layers is 7), an int is the number.

    Raises:
        ValueError: the encoder has no such layer.
    """
    number = round(layer * depth) if isinstance(layer, float) else layer
    if not 1 <= number <= depth or (isinstance(layer, float) and layer > 1):
        raise ValueError(
            f"model.birq.labels.layer={layer} is not a layer of this encoder: "
            f"give a whole number from 1 to {depth}, or a fraction of the depth in (0, 1]"
        )
    return number


def _without_retired(node: DictConfig | dict) -> dict[str, Any]:
    """Returns a copy of the node as a dictionary, without the keys of earlier versions."""
    if not isinstance(node, DictConfig | dict):
        refuse("model.birq", node, "a group of keys")
    try:
        values = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else deepcopy(node)
    except OmegaConfBaseException as error:
        raise ValueError(
            f"model.birq.{error.full_key} cannot be resolved: {str(error).splitlines()[0]}. Correct its value"
        ) from error
    for key, value in RETIRED.items():
        group, _, name = key.rpartition(".")
        inside = values.get(group)
        if not isinstance(inside, dict) or name not in inside:
            continue
        found = inside.pop(name)
        if found != value:
            raise ValueError(f"model.birq.{key}={found} is no longer supported, only {value} is: remove the key")
    return values


def refuse_unknown_keys(node: DictConfig | dict, known: DictConfig | dict | Iterable[str], where: str) -> None:
    """Checks the keys of a node, and of the nodes inside it whose keys ``known`` has too.

    Args:
        node: node of a configuration.
        known: allowed keys.
        where: key of the node, for the message; empty for the root.

    Raises:
        ValueError: a key is unknown; the message names the nearest known one.
    """
    names = list(known)
    for key in node:
        prefix = f"{where}." if where else ""
        if key not in names:
            near = get_close_matches(str(key), names, n=1, cutoff=0.5)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"the known ones are {', '.join(sorted(names))}"
            raise ValueError(f"{prefix}{key} is not a key of the configuration: {hint}")
        inside, known_inside = _inside(node, key), _inside(known, key)
        if inside is not None and known_inside is not None:
            refuse_unknown_keys(inside, known_inside, f"{prefix}{key}")


def _inside(node: DictConfig | dict | Iterable[str], key: str) -> DictConfig | dict | None:
    """Returns the node at a key without resolving interpolations; None if there is no node."""
    found = node._get_node(key) if isinstance(node, DictConfig) else node.get(key) if isinstance(node, dict) else None
    return found if isinstance(found, DictConfig | dict) else None
