"""Registry of every number that pretraining logs: meaning, unit, healthy range, and place in the report.

The alarm thresholds, the report, the training record, the model card and the table in docs/reading_the_curves.md use it. It
imports only the standard library, so that the report does not need NeMo.

``python -m nemo_birq.monitoring.metrics`` prints the table of the documentation.
"""

from dataclasses import dataclass
from typing import Literal

Stage = Literal["train", "val"]
BOTH: tuple[Stage, ...] = ("train", "val")
TRAIN: tuple[Stage, ...] = ("train",)
VAL: tuple[Stage, ...] = ("val",)
TASKS = ("anchor", "enhanced")

# Healthy labels of speech stay above 0.6, collapsed labels are at 0.1 (docs/labels.md). The threshold holds for both tasks.
MIN_ENTROPY = 0.3
HEALTHY_AGREEMENT = (0.5, 0.9)
"""Usual range of the selection agreement: labels that follow their frame, in which codes nearby have a part."""


@dataclass(frozen=True)
class Curve:
    """A line in the report that shows a metric."""

    picture: str
    """Name of the picture, as in ``nemo_birq.report.catalogue``."""
    label: str = "training"
    style: str = "-"
    """Line style of matplotlib, or ``o`` for a thin line with a marker at each point."""
    stage: Stage = "train"
    instead: str | None = None
    """Metric with the same value, for runs of versions that do not log this metric."""


@dataclass(frozen=True)
class Metric:
    """A logged number."""

    name: str
    """Tag in TensorBoard without the prefix of the stage."""
    meaning: str
    unit: str
    """Unit, also the label of the y axis; empty for a plain number."""
    stages: tuple[Stage, ...] = BOTH
    """Stages in which it is logged."""
    typical: str = ""
    """Values of a healthy run in words; empty if they depend on the configuration."""
    healthy_min: float | None = None
    """Threshold of the alarm for small values; None if no alarm has one."""
    healthy_max: float | None = None
    """Threshold of the alarm for large values; None if no alarm has one."""
    row: str = ""
    """Label in the report's table of last values; empty for a metric without a row."""
    curves: tuple[Curve, ...] = ()
    recorded: bool = False
    """True if the last value is in the training record of a ``.nemo`` and in the model card."""
    prefixed: bool = True
    """True if the tag is ``<stage>_<name>``; otherwise it is the name."""

    def tag(self, stage: Stage) -> str:
        """Returns the tag in TensorBoard."""
        return f"{stage}_{self.name}" if self.prefixed else self.name


@dataclass(frozen=True)
class Gain:
    """Gain over a predictor that only knows how frequent each code is: a difference of two metrics, which is not logged."""

    row: str
    """Label in the report's table of last values."""
    minuend: str
    """Metric from which ``subtrahend`` is subtracted; the higher the difference, the better."""
    subtrahend: str


def _metrics_of_labels(task: str) -> tuple[Metric, ...]:
    """Returns the metrics of a task, which are computed over the masked frames since the last logged step."""
    usual = {"label": task, "style": "-" if task == "enhanced" else ":"}
    loss, loss_val, accuracy = f"{task}_loss_training", f"{task}_loss_validation", f"{task}_accuracy"
    return (
        Metric(
            f"{task}_loss", "Cross-entropy of the labels.", "nats",
            typical="below the unigram entropy", row=f"{task} loss (nats)", recorded=True,
            curves=(Curve(loss, "loss"), Curve(loss_val, "loss", stage="val")),
        ),
        Metric(
            f"{task}_unigram_entropy",
            "Loss of a predictor that only knows how frequent each code is: the entropy of the labels; enhanced labels are "
            "the selected codes, or the mean label if `labels.label_gradient` is 0.",
            "nats", row=f"{task} unigram entropy (nats)", recorded=True,
            curves=(Curve(loss, "unigram entropy", ":"), Curve(loss_val, "unigram entropy", ":", "val")),
        ),
        Metric(
            accuracy,
            "Share of the masked frames whose label the model predicts; a soft label counts with the probability of the "
            "predicted code.",
            "share of masked frames",
            typical="above the unigram accuracy", row=f"{task} accuracy", recorded=True,
            curves=(Curve(accuracy), Curve(accuracy, "validation", "o", "val")),
        ),
        Metric(
            f"{task}_unigram_accuracy",
            "Accuracy of a predictor that always predicts the most frequent code; equal to `*_top1`.",
            "share of masked frames", recorded=True,
            curves=(Curve(accuracy, "unigram (training)", ":", instead=f"{task}_top1"),),
        ),
        Metric(
            f"{task}_perplexity", "Effective number of codes in use: exp of the unigram entropy.", "codes",
            row=f"{task} perplexity", curves=(Curve("perplexity", **usual),), recorded=True,
        ),
        Metric(
            f"{task}_normalized_entropy",
            "Unigram entropy divided by its largest value: ln V, or ln N where N < V frames were counted.",
            "share of the largest entropy", typical="above 0.5", healthy_min=MIN_ENTROPY,
            row=f"{task} normalized entropy", curves=(Curve("normalized_entropy", **usual),), recorded=True,
        ),
        Metric(
            f"{task}_coverage", "Share of the codebook that occurs.", "share of the codebook in use",
            row=f"{task} coverage", curves=(Curve("coverage", **usual),),
        ),
        Metric(
            f"{task}_cumulative_coverage",
            "Share of the codebook that has occurred since the start of the run; a resumed run continues the count.",
            "share of the codebook ever used", typical="rises, then stays",
            row=f"{task} coverage since the start", curves=(Curve("cumulative_coverage", **usual),),
        ),
        Metric(
            f"{task}_top1", "Share of the most frequent code.", "share of masked frames", typical="below 0.2",
            curves=(Curve("top1", **usual),),
        ),
    )  # fmt: skip


_METRICS = (
    *(metric for task in TASKS for metric in _metrics_of_labels(task)),
    Metric(
        "enhanced_floor",
        "Lowest value that the enhanced loss can reach: the entropy of softmax(s); 0 for hard labels without noise.",
        "nats", typical="well below the loss", row="enhanced floor (nats)", recorded=True,
        curves=(
            Curve("enhanced_loss_training", "floor", "--"), Curve("enhanced_loss_validation", "floor", "--", "val"),
        ),
    ),
    Metric(
        "selection_agreement",
        "Mean probability that Gumbel-softmax selects the nearest code, which is the highest accuracy that the enhanced "
        "task can reach.",
        "share of masked frames", typical="{:g} to {:g}".format(*HEALTHY_AGREEMENT),
        # Over random unit vectors and 8192 codes the agreement is 0.02 with logit_scale 10, where labels are noise, and 0.2
        # with 20, where the labels of real speech stayed diverse and were learned (docs/labels.md).
        healthy_min=0.1,
        row="selection agreement", curves=(Curve("selection_agreement"), Curve("enhanced_accuracy", "reachable", "--")),
        recorded=True,
    ),
    Metric(
        "anchor_agreement",
        "Share of the masked frames whose anchor and enhanced label have the same number; by chance, about "
        "1 / perplexity.",
        "share of masked frames", typical="near 0", row="anchor agreement", curves=(Curve("anchor_agreement"),),
    ),
    Metric(
        "masked_fraction", "Masked frames among all frames inside the true lengths.", "share of frames",
        typical="0.2 to 0.5",
        # BEST-RQ predicts 20 to 33 % of the frames, HuBERT and wav2vec 2.0 half of them. Below the range, too few frames are
        # predicted; above it, too little context remains.
        healthy_min=0.1, healthy_max=0.6,
        row="masked share of frames",
        curves=(Curve("masked_fraction"), Curve("masked_fraction", "validation", "o", "val")),
    ),
    Metric(
        "enhanced_previous_agreement",
        "Share of the probe's frames whose enhanced label is the same as at the validation before.",
        "share of frames", VAL, typical="rises", row="enhanced labels as before",
        curves=(Curve("val_enhanced_previous_agreement", "validation", stage="val"),),
    ),
    Metric(
        "enhanced_churn", "Share of the probe's frames whose enhanced label has changed since the last logged step.",
        "share of frames", TRAIN, typical="falls", row="churn of enhanced labels", curves=(Curve("enhanced_churn"),),
    ),
    Metric(
        "enhanced_replaced",
        "Largest share of the codes that one step has replaced since the last logged step; only with "
        "`labels.codebook=tracked`.",
        "share of the codebook", TRAIN, typical="at most 0.01", row="replaced codes", curves=(Curve("enhanced_replaced"),),
    ),
    Metric(
        "grad_norm", "Norm of the gradient over all parameters, before clipping.", "norm before clipping", TRAIN,
        typical="no jumps", row="gradient norm", curves=(Curve("grad_norm"),),
    ),
    Metric(
        "gradient_norm_anchor", "Norm of w2 grad G over the encoder's parameters.", "weighted norm before clipping", TRAIN,
        typical="within a factor of 10 of the other task", curves=(Curve("gradient_norms", "anchor", ":"),),
    ),
    Metric(
        "gradient_norm_enhanced", "Norm of w1 grad F over the encoder's parameters.", "weighted norm before clipping", TRAIN,
        typical="within a factor of 10 of the other task", curves=(Curve("gradient_norms", "enhanced"),),
    ),
    Metric(
        "gradient_norm_enhanced_prediction", "Norm of the part of w1 grad F that goes through the prediction log p.",
        "weighted norm before clipping", TRAIN, typical="larger than the part through the label",
        curves=(Curve("gradient_norms", "through prediction", "--"),),
    ),
    Metric(
        "gradient_norm_enhanced_label",
        "Norm of the part of w1 grad F that goes through the label y^(k); it exists where label_gradient is above 0.",
        "weighted norm before clipping", TRAIN, typical="smaller than the part through the prediction",
        curves=(Curve("gradient_norms", "through label", "-."),),
    ),
    Metric(
        "gradient_cosine", "Cosine between grad F and grad G; below 0 the tasks pull in opposite directions.", "cosine",
        TRAIN, typical="above 0", row="cosine of the gradients", curves=(Curve("gradient_cosine"),),
    ),
    Metric(
        "learning_rate", "Learning rate of the first parameter group.", "", TRAIN, row="learning rate",
        curves=(Curve("learning_rate"),), prefixed=False,
    ),
    Metric(
        "enhanced_weight", "Weight w1 of the enhanced loss.", "", TRAIN, row="w1", curves=(Curve("enhanced_weight"),),
    ),
    Metric(
        "loss", "Weighted sum of both losses, w1 F + w2 G; validation uses the weights at the end of the schedule.", "nats",
    ),
    Metric(
        "audio_hours_per_hour", "Throughput of all ranks together.", "hours of audio per hour", TRAIN,
        row="hours of audio per hour", curves=(Curve("audio_hours_per_hour"),),
    ),
    Metric(
        "mfu",
        "Utilization of the devices: operations of the model a second, inside the true lengths of the utterances, divided "
        "by those of a large matrix product in the same precision, which is measured when training begins.",
        "share of a matrix product's speed", TRAIN, typical="steady; 0.1 to 0.3 on a GPU", row="utilization (MFU)",
        curves=(Curve("mfu"),), recorded=True,
    ),
    Metric(
        "padding_share", "Padding among the frames of the batches, which `mfu` does not count as work.", "share of frames",
        TRAIN, typical="below 0.05 with bucketing", row="share of padding", curves=(Curve("padding_share"),), recorded=True,
    ),
    Metric(
        "silent_share", "Share of the readable utterances that are silent or constant.", "share of utterances", TRAIN,
        typical="0",
        # Some corpora have single silent recordings; one in ten indicates an error of recording or cutting.
        healthy_max=0.1,
        row="share of silence",
    ),
    Metric(
        "skipped_utterances", "Utterances that could not be read, since the start of the run.",
        "utterances", TRAIN, typical="0", row="skipped utterances",
    ),
    Metric(
        "skipped_share",
        "Share of the utterances that could not be read, since the start of the run.",
        "share of utterances", TRAIN, typical="0", row="skipped share of utterances", curves=(Curve("skipped_share"),),
    ),
    Metric(
        "memory_gb",
        "Peak memory, in 10^9 bytes, of the rank that needs most: of PyTorch's allocator on a GPU, otherwise of the process "
        "without the workers of the data loader.",
        "gigabytes", TRAIN, typical="does not rise over hours", row="memory (GB)", curves=(Curve("memory_gb"),),
    ),
    Metric("epoch", "Completed passes over the data.", "epochs", prefixed=False),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""Every metric by name, in the order of the report's table."""
GAINS = tuple(
    gain
    for task in TASKS
    for gain in (
        Gain(f"{task} loss below unigram (nats)", f"{task}_unigram_entropy", f"{task}_loss"),
        # Runs of earlier versions do not log unigram_accuracy.
        Gain(f"{task} accuracy above unigram", f"{task}_accuracy", f"{task}_top1"),
    )
)
"""Differences in the table of the report, each below the row of its minuend."""
RECORDED = tuple(metric.name for metric in METRICS.values() if metric.recorded)
"""Names of the metrics in the training record."""


def logged_tags() -> set[str]:
    """Returns every tag that a run can log."""
    return {metric.tag(stage) for metric in METRICS.values() for stage in metric.stages}


def markdown_table() -> str:
    """Returns the table of all metrics; metrics that differ only in their names share a line."""
    names: dict[tuple[str, ...], list[str]] = {}
    for metric in METRICS.values():
        stages = " and ".join(metric.stages) if metric.prefixed else "no prefix"
        cells = (stages, metric.meaning, metric.unit, metric.typical, _alarm(metric))
        names.setdefault(cells, []).append(f"`{metric.name}`")
    head = ["| name | stage | meaning | unit | healthy run | alarm |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *(f"| {' | '.join((', '.join(same), *cells))} |" for cells, same in names.items())])


def _alarm(metric: Metric) -> str:
    limits = (("below", metric.healthy_min), ("above", metric.healthy_max))
    return " or ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)


if __name__ == "__main__":
    print(markdown_table())
