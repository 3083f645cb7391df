"""Rules for an unhealthy run: each compares a logged step with its thresholds and returns a violation or None.

A violation says what the number means and what to change; docs/reading_the_curves.md shows each case in a picture. The
thresholds of single metrics are the healthy ranges in metrics.py. The thresholds of differences are in this module.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from nemo_birq.config import BiRQConfig, LabelsConfig
from nemo_birq.data.factory import MAX_SKIPPED_SHARE
from nemo_birq.monitoring.metrics import METRICS

# Nats below the unigram entropy at which a task counts as learned. A predictor that only knows the frequencies stays above
# the entropy, and the error of an entropy from few frames is smaller than this.
MIN_GAIN = 0.05
# Share of ln V by which the entropy of the enhanced labels may fall from its peak; labels of healthy runs change by less.
MAX_FALL = 0.2
# Nats above the unigram entropy to which the loss of a learned task may rise. Before that, the loss may be higher.
MAX_EXCESS = 0.3
MAX_SKIPPED = 10
"""Smallest number of skipped utterances that raises an alarm, unless all utterances are skipped."""


class Violation(NamedTuple):
    """A number beyond its threshold."""

    value: float
    threshold: float
    message: str


class LoggedStep(NamedTuple):
    """The input of a rule."""

    step: int
    """Optimizer step, counted from 0."""
    metrics: dict[str, float]
    """Metrics of this step by their names in the registry."""
    birq: BiRQConfig
    at_peak_entropy: dict[str, float] | None
    """Metrics of the step at which the enhanced labels had their highest entropy; None while their weight has been 0."""
    enhanced_learned: bool = False
    """True if the enhanced task was learned at an earlier logged step."""


Rule = Callable[[LoggedStep], Violation | None]


def noise_labels(logged: LoggedStep) -> Violation | None:
    least = METRICS["selection_agreement"].healthy_min
    value = logged.metrics.get("selection_agreement", 1.0)
    if value >= least:
        return None
    labels = logged.birq.labels
    key = f"model.birq.labels.nearest_share (now {labels.nearest_share:g}; the default is {LabelsConfig.nearest_share:g})"
    if labels.logit_scale != "auto":
        key = f"model.birq.labels.logit_scale (now {labels.logit_scale:g}; the default is {LabelsConfig.logit_scale:g})"
    return Violation(
        value,
        least,
        f"the nearest code has only {value:.1%} of the probability of a label, so the enhanced labels are noise, or nearly "
        f"the same for all frames, and cannot be learned. Raise {key}. birq check-labels suggests a value for your data.",
    )


def collapsed_labels(logged: LoggedStep) -> Violation | None:
    least = METRICS["enhanced_normalized_entropy"].healthy_min
    value = logged.metrics.get("enhanced_normalized_entropy", 1.0)
    if value >= least or logged.metrics["enhanced_weight"] == 0:
        return None
    return Violation(
        value,
        least,
        f"the enhanced labels have collapsed: their normalized entropy is {value:.2f}, and only "
        f"{logged.metrics['enhanced_perplexity']:.1f} of {logged.birq.quantizer.num_codes} codes are in use. Their task is "
        "trivial, and its low loss means nothing. Start again with objective=default, which sets "
        "model.birq.labels.label_gradient=0 and normalization=per_feature, or give the enhanced loss its weight later "
        "(model.birq.loss.start_step). docs/labels.md has the measurements.",
    )


def degenerate_features(logged: LoggedStep) -> Violation | None:
    least = METRICS["anchor_normalized_entropy"].healthy_min
    value = logged.metrics.get("anchor_normalized_entropy", 1.0)
    if value >= least:
        return None
    return Violation(
        value,
        least,
        f"nearly all frames have the same few anchor labels: their normalized entropy is {value:.2f}, their perplexity "
        f"{logged.metrics['anchor_perplexity']:.1f} of {logged.birq.quantizer.num_codes} codes, and the most frequent code "
        f"has {logged.metrics['anchor_top1']:.0%} of the frames. The features are degenerate. Set "
        "model.preprocessor.normalize=per_feature (for a streaming encoder model.birq.anchor.normalization=per_feature), "
        "and listen to the audio: it may be silent or constant, or come from the wrong channel.",
    )


def anchor_not_learned(logged: LoggedStep) -> Violation | None:
    by = logged.birq.watch.learned_by_step
    if logged.step + 1 < by or logged.birq.loss.anchor_weight == 0 or "anchor_loss" not in logged.metrics:
        return None
    gain = logged.metrics["anchor_unigram_entropy"] - logged.metrics["anchor_loss"]
    if gain >= MIN_GAIN:
        return None
    return Violation(
        gain,
        MIN_GAIN,
        f"after {logged.step + 1} steps the anchor loss {logged.metrics['anchor_loss']:.2f} is not below the unigram "
        f"entropy {logged.metrics['anchor_unigram_entropy']:.2f}: the model has only learned how frequent each code is. "
        "Check the learning rate (too low in a long warm-up, or too high), frozen parameters, and spans "
        "that are too long for the start (model.birq.masking.span_frames). With one shared head, try "
        "model.birq.loss.head=separate. If the warm-up is longer than this, raise model.birq.watch.learned_by_step.",
    )


def shrinking_labels(logged: LoggedStep) -> Violation | None:
    now, peak = logged.metrics, logged.at_peak_entropy
    if peak is None or "enhanced_loss" not in now:
        return None
    labels = logged.birq.labels
    fall = peak["enhanced_normalized_entropy"] - now["enhanced_normalized_entropy"]
    loss = peak["enhanced_loss"] - now["enhanced_loss"]
    nats = peak["enhanced_unigram_entropy"] - now["enhanced_unigram_entropy"]
    if fall <= MAX_FALL or loss <= 0 or nats < loss / 2:  # otherwise, learning explains most of the fall of the loss
        return None
    return Violation(
        fall,
        MAX_FALL,
        f"the enhanced loss has fallen by {loss:.2f} nats, and the entropy of its labels by {nats:.2f}. It falls because "
        f"the labels become fewer (perplexity {peak['enhanced_perplexity']:.0f} to {now['enhanced_perplexity']:.0f}), not "
        "because they are learned. If this continues, the labels collapse. "
        + (
            f"Lower model.birq.labels.label_gradient (now {labels.label_gradient:g}; 0 is the default), which pulls the "
            "labels to what the model already predicts."
            if labels.label_gradient > 0
            else "No gradient pulls the labels together (model.birq.labels.label_gradient is 0), so layer k itself loses "
            "detail: lower model.birq.loss.enhanced_weight, raise model.birq.loss.start_step, or take a lower layer "
            f"(model.birq.labels.layer, now {labels.layer:g})."
        ),
    )


def is_learned(metrics: dict[str, float]) -> bool:
    """Returns True if the model predicts the enhanced labels better than their frequencies alone do."""
    return metrics["enhanced_weight"] > 0 and _excess(metrics) < -MIN_GAIN


def _excess(metrics: dict[str, float]) -> float:
    """Returns the enhanced loss minus the unigram entropy of its labels, in nats; NaN if there is no enhanced loss."""
    return metrics.get("enhanced_loss", math.nan) - metrics.get("enhanced_unigram_entropy", math.nan)


def replaced_labels(logged: LoggedStep) -> Violation | None:
    now, birq = logged.metrics, logged.birq
    collapsed = now.get("enhanced_normalized_entropy", 0.0) < METRICS["enhanced_normalized_entropy"].healthy_min
    if not logged.enhanced_learned or collapsed or not _excess(now) > MAX_EXCESS:
        return None
    if birq.labels.codebook == "tracked":
        cause = f" Up to {now.get('enhanced_replaced', math.nan):.1%} of the codes were replaced in a step."
        remedy = (
            f"Raise model.birq.labels.codebook_momentum (now {birq.labels.codebook_momentum:g}), use fewer codes "
            f"(model.birq.quantizer.num_codes, now {birq.quantizer.num_codes}) or larger batches"
        )
    else:
        cause, remedy = "", "Lower model.optim.lr, or take a lower layer (model.birq.labels.layer)"
    return Violation(
        _excess(now),
        MAX_EXCESS,
        f"the enhanced loss {now['enhanced_loss']:.2f} is above the unigram entropy of its labels, "
        f"{now['enhanced_unigram_entropy']:.2f}, after it had been below: labels that the model had learned were replaced "
        f"faster than it can follow.{cause} {remedy}.",
    )


def masked_share(logged: LoggedStep) -> Violation | None:
    value = logged.metrics["masked_fraction"]
    low, high = METRICS["masked_fraction"].healthy_min, METRICS["masked_fraction"].healthy_max
    if logged.step == 0 or low <= value <= high:  # step 0 has a single batch
        return None
    too_few = value < low
    masking = logged.birq.masking
    return Violation(
        value,
        low if too_few else high,
        f"{value:.0%} of the frames are masked and predicted, while 20 to 50 % are usual: "
        f"{'the model learns little from each batch' if too_few else 'little is left to predict from'}. "
        f"{'Raise' if too_few else 'Lower'} model.birq.masking.start_probability (now {masking.start_probability:g}) or "
        f"span_frames (now {masking.span_frames}){', or lower masking.threshold' if too_few else ''}.",
    )


def silence(logged: LoggedStep) -> Violation | None:
    most = METRICS["silent_share"].healthy_max
    value = logged.metrics["silent_share"]
    if value <= most:
        return None
    return Violation(
        value,
        most,
        f"{value:.0%} of the readable utterances are silent or constant. Listen to some of them, and check the offsets and "
        "durations in the manifest and the channel that is read.",
    )


def unreadable_data(model: DictConfig, node: str, skipped: float, share: float) -> Violation | None:
    """Compares the share of skipped utterances with ``max_skipped_share``; training stops at a violation.

    Args:
        model: configuration of the model.
        node: ``train_ds`` or ``validation_ds``.
        skipped: number of utterances that could not be used.
        share: share of skipped utterances among all utterances.
    """
    most = OmegaConf.select(model, f"{node}.max_skipped_share", default=MAX_SKIPPED_SHARE)
    if share < 1.0 and (skipped < MAX_SKIPPED or share <= most):
        return None
    return Violation(
        share,
        most,
        f"{skipped:.0f} utterances, {share:.1%} of those read, could not be used, more than model.{node}."
        f"max_skipped_share={most}. The log names each of them and its error; birq verify-shards checks all shards.",
    )


RULES: tuple[Rule, ...] = (
    noise_labels,
    collapsed_labels,
    degenerate_features,
    anchor_not_learned,
    shrinking_labels,
    replaced_labels,
    masked_share,
    silence,
)
