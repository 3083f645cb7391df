"""When a run is sick: thresholds, what a number beyond them means, and what to change.

Each rule looks at the numbers of a logged step (names as in the logger, without ``train_``) and gives a finding or None.
docs/reading_the_curves.md shows each of them in pictures.
"""

from collections.abc import Callable
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from nemo_birq.config import BiRQConfig
from nemo_birq.data.factory import MOST_SKIPPED

# Over random unit vectors and 8192 codes the agreement is 0.02 with logit_scale 10, where labels are noise, and 0.2 with 20,
# where they lived and were learned on real speech (docs/labels.md).
LEAST_AGREEMENT = 0.1
# Healthy labels of speech stay above 0.6, collapsed ones lie at 0.1 (docs/labels.md). The same line for both tasks.
LEAST_ENTROPY = 0.3
# Nats below the unigram entropy: what a task must reach to count as learned. A predictor that only knows the frequencies
# stays above 0, and chance in the entropy of few frames is smaller than this.
LEAST_GAIN = 0.05
# Share of ln V by which the entropy of the enhanced labels may fall from its highest value; living labels move by less.
LARGEST_FALL = 0.2
# BEST-RQ predicts 20 to 33 % of speech, HuBERT and wav2vec 2.0 half of it. Beyond, there is too little to predict, or too
# little to predict it from.
MASKED_RANGE = (0.1, 0.6)
# A corpus has a silent recording now and then; one in ten is a fault of recording or cutting.
MOST_SILENCE = 0.1
FEW_SKIPPED = 10  # utterances that may be skipped whatever their share


class Finding(NamedTuple):
    """What a rule found."""

    value: float
    threshold: float
    message: str


class Look(NamedTuple):
    """What a rule sees."""

    step: int
    metrics: dict[str, float]
    birq: BiRQConfig
    widest: dict[str, float] | None
    """Metrics of the logged step at which the enhanced labels had their highest entropy since their weight is above 0."""


Rule = Callable[[Look], Finding | None]


def noise_labels(look: Look) -> Finding | None:
    value = look.metrics.get("selection_agreement", 1.0)
    if value >= LEAST_AGREEMENT:
        return None
    return Finding(
        value,
        LEAST_AGREEMENT,
        f"Gumbel-softmax picks the nearest code in only {value:.1%} of the frames: the enhanced labels are noise and "
        f"cannot be learned. Raise model.birq.labels.logit_scale (now {look.birq.labels.logit_scale:g}; the default is "
        "40); scripts/check_labels.py suggests a value for your data.",
    )


def collapsed_labels(look: Look) -> Finding | None:
    value = look.metrics.get("enhanced_normalized_entropy", 1.0)
    if value >= LEAST_ENTROPY or look.metrics["enhanced_weight"] == 0:
        return None
    return Finding(
        value,
        LEAST_ENTROPY,
        f"the enhanced labels have collapsed: normalized entropy {value:.2f}, only "
        f"{look.metrics['enhanced_perplexity']:.1f} of {look.birq.quantizer.num_codes} codes are in use. Their task is "
        "trivial, its low loss means nothing. Start again with labels=default, that is model.birq.labels.label_gradient=0 "
        "and normalization=per_feature, or let the enhanced labels count later (model.birq.loss.start_step); "
        "docs/labels.md says what was measured.",
    )


def degenerate_features(look: Look) -> Finding | None:
    value = look.metrics.get("anchor_normalized_entropy", 1.0)
    if value >= LEAST_ENTROPY:
        return None
    return Finding(
        value,
        LEAST_ENTROPY,
        f"nearly all frames have the same few anchor labels: normalized entropy {value:.2f}, perplexity "
        f"{look.metrics['anchor_perplexity']:.1f} of {look.birq.quantizer.num_codes} codes, the most frequent code has "
        f"{look.metrics['anchor_top1']:.0%} of the frames. The features are degenerate: set model.preprocessor.normalize="
        "per_feature, and listen to the audio (silence, a constant signal, a wrong channel).",
    )


def anchor_not_learned(look: Look) -> Finding | None:
    by = look.birq.watch.learned_by_step
    if look.step + 1 < by or look.birq.loss.anchor_weight == 0 or "anchor_loss" not in look.metrics:
        return None
    gain = look.metrics["anchor_unigram_entropy"] - look.metrics["anchor_loss"]
    if gain >= LEAST_GAIN:
        return None
    return Finding(
        gain,
        LEAST_GAIN,
        f"after {look.step + 1} steps the anchor loss {look.metrics['anchor_loss']:.2f} is not below the unigram entropy "
        f"{look.metrics['anchor_unigram_entropy']:.2f}: the model knows how frequent each code is and nothing about the "
        "frame. Look at the learning rate (too low in a long warm-up, or too high), at parameters that are frozen, at "
        "spans too long for the start (model.birq.masking.span_frames), and with one shared head at "
        "model.birq.loss.head=separate. If the warm-up is simply longer than this, raise model.birq.watch.learned_by_step.",
    )


def shrinking_labels(look: Look) -> Finding | None:
    if look.widest is None or "enhanced_loss" not in look.metrics:
        return None
    name = "enhanced_normalized_entropy"
    fall = look.widest[name] - look.metrics[name]
    loss = look.widest["enhanced_loss"] - look.metrics["enhanced_loss"]
    nats = look.widest["enhanced_unigram_entropy"] - look.metrics["enhanced_unigram_entropy"]
    if fall <= LARGEST_FALL or loss <= 0 or nats < loss / 2:  # else most of it was learned
        return None
    return Finding(
        fall,
        LARGEST_FALL,
        f"the enhanced loss has fallen by {loss:.2f} nats, the entropy of its labels by {nats:.2f}: it falls because the "
        f"labels become fewer (perplexity {look.widest['enhanced_perplexity']:.0f} to "
        f"{look.metrics['enhanced_perplexity']:.0f}), not because they are learned. If it goes on they collapse: lower "
        "model.birq.labels.label_gradient (0 is the default) or model.birq.loss.enhanced_weight, or raise "
        "model.birq.loss.start_step.",
    )


def masked_share(look: Look) -> Finding | None:
    value = look.metrics["masked_fraction"]
    low, high = MASKED_RANGE
    if look.step == 0 or low <= value <= high:  # one batch says little
        return None
    too_few = value < low
    direction = "Raise" if too_few else "Lower"
    return Finding(
        value,
        low if too_few else high,
        f"{value:.0%} of the frames are masked and predicted, usual are 20 to 50 %: "
        f"{'little is learned from each batch' if too_few else 'little is left to predict from'}. {direction} "
        f"model.birq.masking.start_probability (now {look.birq.masking.start_probability:g}) or span_frames (now "
        f"{look.birq.masking.span_frames})" + (", or lower masking.threshold." if too_few else "."),
    )


def silence(look: Look) -> Finding | None:
    value = look.metrics["silent_share"]
    if value <= MOST_SILENCE:
        return None
    return Finding(
        value,
        MOST_SILENCE,
        f"{value:.0%} of the utterances that could be read are silent or constant. Listen to some; look at offsets and "
        "durations of the manifest, and at the channel that is read.",
    )


def unreadable_data(model: DictConfig, node: str, skipped: float, share: float) -> Finding | None:
    """Training does not go on with it.

    Args:
        model: configuration of the model.
        node: ``train_ds`` or ``validation_ds``.
        skipped: utterances that could not be used.
        share: they are of those that were wanted.
    """
    most = OmegaConf.select(model, f"{node}.max_skipped_share", default=MOST_SKIPPED)
    if share < 1.0 and (skipped < FEW_SKIPPED or share <= most):
        return None
    return Finding(
        share,
        most,
        f"{skipped:.0f} utterances, {share:.1%} of those read, could not be used, more than model.{node}."
        f"max_skipped_share={most}. The log names each of them and what is wrong; scripts/verify_shards.py looks "
        "through all shards.",
    )


RULES: tuple[Rule, ...] = (
    noise_labels,
    collapsed_labels,
    degenerate_features,
    anchor_not_learned,
    shrinking_labels,
    masked_share,
    silence,
)
