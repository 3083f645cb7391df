"""Layout of the report: sections, pictures and the table of last values, filled from the registry of metrics."""

from dataclasses import dataclass, field

from nemo_birq.monitoring.metrics import GAINS, METRICS, MIN_ENTROPY, Stage
from nemo_birq.utils.colours import ANCHOR, ENHANCED


@dataclass(frozen=True)
class Line:
    """A logged number in a picture."""

    tag: str
    label: str
    style: str = "-"
    instead: str | None = None
    """Tag with the same value, for runs of versions that do not log ``tag``."""
    colour: str | None = None
    """Colour of its task in the pictures of a single run; None for a line of no task."""


@dataclass(frozen=True)
class Picture:
    """Curves over steps; one picture has those of all runs."""

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    """The first line is the subject of the picture; a legend names the lines if there are several."""
    levels: dict[str, float] = field(default_factory=dict)
    """Horizontal lines by their meaning."""
    log: bool = False
    """The y axis is logarithmic."""


@dataclass(frozen=True)
class Section:
    """Pictures that answer one question."""

    name: str
    title: str
    text: str
    pictures: tuple[Picture, ...]


def _task_colour(metric: str) -> str | None:
    """Returns the colour of the task that a metric belongs to; None for a metric of both tasks or of none."""
    words = metric.split("_")
    if metric == "anchor_agreement" or not {"anchor", "enhanced"} & set(words):
        return None
    return ANCHOR if "anchor" in words else ENHANCED


def _picture(name: str, title: str, levels: dict[str, float] | None = None, log: bool = False) -> Picture:
    """Returns a picture of the metrics whose curves name it, solid lines first."""
    found = [(metric, curve) for metric in METRICS.values() for curve in metric.curves if curve.picture == name]
    found.sort(key=lambda pair: pair[1].style != "-")
    lines = (
        Line(
            metric.tag(curve.stage),
            curve.label,
            curve.style,
            METRICS[curve.instead].tag(curve.stage) if curve.instead else None,
            _task_colour(metric.name),
        )
        for metric, curve in found
    )
    return Picture(name, title, found[0][0].unit, tuple(lines), levels or {}, log)


SECTIONS = (
    Section(
        "losses", "Is each task learned?",
        "A task is learned when its loss (solid) is clearly below its unigram entropy (dotted), the loss of a predictor "
        "that only knows how frequent each code is. If a loss falls together with its dotted line, the labels collapse and "
        "nothing is learned.",
        (
            _picture("anchor_loss_training", "Anchor loss, training"),
            _picture("enhanced_loss_training", "Enhanced loss, training"),
            _picture("anchor_loss_validation", "Anchor loss, validation"),
            _picture("enhanced_loss_validation", "Enhanced loss, validation"),
        ),
    ),
    Section(
        "accuracy", "Masked accuracy",
        "Share of the masked frames whose label is predicted. The dotted line is a predictor that always chooses the most "
        "frequent code.",
        (_picture("anchor_accuracy", "Anchor accuracy"), _picture("enhanced_accuracy", "Enhanced accuracy")),
    ),
    Section(
        "labels", "Are the labels diverse?",
        "Enhanced labels are solid, anchor labels dotted. Anchor labels cannot collapse. Enhanced labels have collapsed "
        f"where their normalized entropy is below about {MIN_ENTROPY:g}.",
        (
            _picture("normalized_entropy", "Normalized entropy of the labels", {"collapsed below": MIN_ENTROPY}),
            _picture("perplexity", "Perplexity of the labels"),
            _picture("coverage", "Coverage"),
            _picture("cumulative_coverage", "Coverage since the start"),
            _picture("top1", "Most frequent code"),
            _picture("selection_agreement", "Selection agreement: nearest code picked"),
            _picture("anchor_agreement", "Anchor and enhanced label are the same code"),
            _picture("enhanced_churn", "Churn: labels changed since the last logged step"),
            _picture("enhanced_replaced", "Codes replaced in a step, at most"),
            _picture("val_enhanced_previous_agreement", "Enhanced labels as at the validation before"),
        ),
    ),
    Section(
        "gradients", "Gradients",
        "Norm of each task's gradient in the encoder. The cosine is above 0 if the gradients of both tasks point in a "
        "similar direction.",
        (
            _picture("grad_norm", "Gradient norm", log=True),
            _picture("gradient_norms", "Gradient norm of each task", log=True),
            _picture("gradient_cosine", "Cosine of the two tasks' gradients", {"at right angles": 0.0}),
        ),
    ),
    Section(
        "training", "Schedule and speed", "",
        (
            _picture("audio_hours_per_hour", "Throughput"),
            _picture("mfu", "Utilization of the devices (MFU)"),
            _picture("padding_share", "Padding"),
            _picture("learning_rate", "Learning rate"),
            _picture("enhanced_weight", "Weight w1 of the enhanced loss"),
            _picture("masked_fraction", "Masked frames"),
            _picture("skipped_share", "Skipped: utterances that could not be used"),
        ),
    ),
    Section(
        "memory", "Memory",
        "Peak of the GPU's allocator; on a CPU, the resident memory of the process.",
        (_picture("memory_gb", "Memory"),),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A number in the table."""

    label: str
    tag: str
    minus: str | None = None
    """Tag to subtract. The highest difference is the best; a number by itself has no best."""


def _rows(stage: Stage) -> tuple[Row, ...]:
    rows = []
    for metric in METRICS.values():
        if stage not in metric.stages:
            continue
        if metric.row:
            rows.append(Row(metric.row, metric.tag(stage)))
        gains = (gain for gain in GAINS if gain.minuend == metric.name)
        rows += [Row(gain.row, metric.tag(stage), METRICS[gain.subtrahend].tag(stage)) for gain in gains]
    return tuple(rows)


TABLE = {"Validation, last": _rows("val"), "Training, last logged": _rows("train")}
