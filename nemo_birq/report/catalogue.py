"""What the report shows: which logged numbers belong in one picture, and which in the table."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """A logged number in a picture."""

    tag: str
    label: str
    style: str = "-"
    instead: str | None = None
    """Tag with the same meaning, for runs of versions that do not log ``tag``."""


@dataclass(frozen=True)
class Picture:
    """Curves over steps, those of all runs in one picture."""

    name: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    limits: dict[str, float] = field(default_factory=dict)
    """Level to mark, by what it means."""
    log: bool = False


@dataclass(frozen=True)
class Section:
    """Pictures that answer one question."""

    name: str
    title: str
    text: str
    pictures: tuple[Picture, ...]


TRAIN_VAL = (("train", "training"), ("val", "validation"))


def _loss(task: str, stage: str, word: str) -> Picture:
    lines = (Line(f"{stage}_{task}_loss", "loss"), Line(f"{stage}_{task}_unigram_entropy", "unigram entropy", ":"))
    return Picture(f"{task}_loss_{word}", f"{task.capitalize()} loss, {word}", "nats", lines)


def _accuracy(task: str) -> Picture:
    lines = (
        Line(f"train_{task}_accuracy", "training"),
        Line(f"val_{task}_accuracy", "validation", "o"),
        # The most frequent code is what a unigram predictor says, so its share is that predictor's accuracy.
        Line(f"train_{task}_unigram_accuracy", "unigram (training)", ":", instead=f"train_{task}_top1"),
    )
    return Picture(f"{task}_accuracy", f"{task.capitalize()} accuracy", "share of masked frames", lines)


def _health(name: str, title: str, unit: str, limits: dict[str, float] | None = None) -> Picture:
    lines = (Line(f"train_enhanced_{name}", "enhanced"), Line(f"train_anchor_{name}", "anchor", ":"))
    return Picture(name, title, unit, lines, limits or {})


def _single(tag: str, title: str, unit: str, limits: dict[str, float] | None = None, log: bool = False) -> Picture:
    stage = "validation" if tag.startswith("val_") else "training"
    return Picture(tag.removeprefix("train_"), title, unit, (Line(tag, stage),), limits or {}, log)


SECTIONS = (
    Section(
        "losses", "Is each task learned?",
        "A task is learned when its loss (solid) is clearly below its unigram entropy (dotted), the loss of a predictor "
        "that only knows how frequent each code is. A loss that falls together with its dotted line is a "
        "collapse of the labels, not learning.",
        tuple(_loss(task, stage, word) for task in ("anchor", "enhanced") for stage, word in TRAIN_VAL),
    ),
    Section(
        "accuracy", "Masked accuracy",
        "Share of masked frames whose label is predicted, against always saying the most frequent code (dotted).",
        (_accuracy("anchor"), _accuracy("enhanced")),
    ),
    Section(
        "labels", "Are the labels alive?",
        "Enhanced labels solid, anchor labels dotted. Anchor labels cannot collapse; enhanced ones have, below about 0.3 of "
        "normalized entropy.",
        (
            _health("normalized_entropy", "Normalized entropy of the labels", "entropy / ln V", {"collapsed below": 0.3}),
            _health("perplexity", "Perplexity of the labels", "codes"),
            _health("coverage", "Coverage", "share of the codebook in use"),
            _health("cumulative_coverage", "Coverage since the start", "share of the codebook ever used"),
            _health("top1", "Most frequent code", "share of masked frames"),
            _single("train_selection_agreement", "Selection agreement: nearest code picked", "share of frames"),
            _single("train_anchor_agreement", "Anchor and enhanced label are the same code", "share of masked frames"),
            _single("train_enhanced_churn", "Churn: labels changed since the last look", "share of frames"),
            _single("val_enhanced_previous_agreement", "Enhanced labels as at the validation before", "share of frames"),
        ),
    ),
    Section(
        "gradients", "Gradients",
        "How hard each task pulls at the encoder, and whether both pull the same way (cosine above 0).",
        (
            _single("train_grad_norm", "Gradient norm", "before clipping", log=True),
            Picture(
                "gradient_norms", "Gradient norm of each task", "weighted, before clipping",
                (
                    Line("train_gradient_norm_anchor", "anchor", ":"),
                    Line("train_gradient_norm_enhanced", "enhanced"),
                    Line("train_gradient_norm_enhanced_prediction", "through prediction", "--"),
                    Line("train_gradient_norm_enhanced_label", "through label", "-."),
                ),
                log=True,
            ),
            _single("train_gradient_cosine", "Cosine of the two tasks' gradients", "cosine", {"at right angles": 0.0}),
        ),
    ),
    Section(
        "training", "Schedule and speed", "",
        (
            _single("train_audio_hours_per_hour", "Throughput", "hours of audio per hour"),
            _single("learning_rate", "Learning rate", ""),
            _single("train_enhanced_weight", "Weight w1 of the enhanced loss", "w1"),
            Picture(
                "masked_fraction", "Masked frames", "share of frames",
                (Line("train_masked_fraction", "training"), Line("val_masked_fraction", "validation", "o")),
            ),
            _single("train_skipped_share", "Skipped: utterances that could not be used", "share of those read"),
        ),
    ),
    Section(
        "memory", "Memory",
        "The peak of the GPU's allocator; on a CPU the resident memory of the process.",
        (_single("train_memory_gb", "Memory", "gigabytes"),),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A number in the table."""

    label: str
    tag: str
    best: str | None = None
    """``high`` or ``low`` where one value of several is better than the others."""
    below: str | None = None
    """Show how far the number is below this one."""
    above: str | None = None
    """Show how far the number is above this one."""


def _rows(stage: str) -> tuple[Row, ...]:
    both = []
    for task in ("anchor", "enhanced"):
        name = f"{stage}_{task}"
        both += [
            Row(f"{task} loss (nats)", f"{name}_loss"),
            Row(f"{task} unigram entropy (nats)", f"{name}_unigram_entropy"),
            Row(f"{task} loss below unigram (nats)", f"{name}_loss", "high", below=f"{name}_unigram_entropy"),
            Row(f"{task} accuracy", f"{name}_accuracy"),
            Row(f"{task} accuracy above unigram", f"{name}_accuracy", "high", above=f"{name}_top1"),
            Row(f"{task} perplexity", f"{name}_perplexity"),
            Row(f"{task} normalized entropy", f"{name}_normalized_entropy"),
            Row(f"{task} coverage", f"{name}_coverage"),
            Row(f"{task} coverage since the start", f"{name}_cumulative_coverage"),
        ]
    return (
        *both,
        Row("selection agreement", f"{stage}_selection_agreement"),
        Row("anchor agreement", f"{stage}_anchor_agreement"),
        Row("masked share of frames", f"{stage}_masked_fraction"),
    )


TABLE = {
    "Validation, last": (*_rows("val"), Row("enhanced labels as before", "val_enhanced_previous_agreement")),
    "Training, last logged": (
        *_rows("train"),
        Row("churn of enhanced labels", "train_enhanced_churn"),
        Row("gradient norm", "train_grad_norm"),
        Row("cosine of the gradients", "train_gradient_cosine"),
        Row("learning rate", "learning_rate"),
        Row("w1", "train_enhanced_weight"),
        Row("hours of audio per hour", "train_audio_hours_per_hour"),
        Row("share of silence", "train_silent_share"),
        Row("skipped utterances", "train_skipped_utterances"),
        Row("skipped share of utterances", "train_skipped_share"),
        Row("memory (GB)", "train_memory_gb"),
    ),
}


def logged_tags() -> set[str]:
    """Every tag that has a place in a picture or in the table."""
    pictured = {line.tag for section in SECTIONS for picture in section.pictures for line in picture.lines}
    tabled = {tag for rows in TABLE.values() for row in rows for tag in (row.tag, row.below, row.above) if tag}
    return pictured | tabled
