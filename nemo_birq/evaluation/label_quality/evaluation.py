"""Compares every set of labels that a model can make with the phones of aligned utterances."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nemo_birq.evaluation.label_quality.alignments import phones_at, unknown_phones
from nemo_birq.evaluation.label_quality.label_sets import collect_frames, label_sets
from nemo_birq.evaluation.label_quality.phone_sets import SILENCE
from nemo_birq.evaluation.label_quality.pnmi import Quality, joint_counts, phone_entropy, score_labels
from nemo_birq.evaluation.label_quality.utterances import Utterances
from nemo_birq.extraction.memory import check_longest
from nemo_birq.model import BiRQModel
from nemo_birq.modules.frame_times import FrameTimes, anchor_times, encoder_times
from nemo_birq.utils.memory import check_room
from nemo_birq.utils.progress import Progress

MAX_PNMI_BY_CHANCE = 0.1  # PNMI by chance above which a note warns the reader
MAX_NAMED = 8  # names in a note


@dataclass
class LabelSetScore:
    """Quality of one set of labels."""

    labels: str
    """``anchor``, ``enhanced``, ``layer`` (nearest codes) or ``kmeans``."""
    layer: int | None
    """Number in 1..L; None for the anchor labels, which come from the input."""
    codes: int
    """V."""
    quality: Quality

    def as_json(self) -> dict[str, Any]:
        return {"labels": self.labels, "layer": self.layer, "codes": self.codes} | self.quality._asdict()


@dataclass
class Evaluation:
    """Scores of all sets of labels of one model on the same utterances."""

    rows: list[LabelSetScore]
    phones: list[str]
    joint: dict[str, np.ndarray]
    """(P, V) counts of the anchor and the enhanced labels, phones in the order of ``phones``."""
    layer: int
    """k of the model."""
    phone_entropy: float
    """H(phone) at the middles of encoder frames, in nats."""
    frames_without_phone: int
    """Number of encoder frames that are left out."""
    silence_share: float
    """Share of silence among the encoder frames with a phone."""
    notes: list[str] = field(default_factory=list)
    """Notes that qualify the numbers."""

    def of(self, labels: str) -> list[LabelSetScore]:
        """Returns the scores of one kind of labels, by layer."""
        return [row for row in self.rows if row.labels == labels]


def check_memory(model: BiRQModel, seconds: float) -> None:
    """Refuses audio for which the outputs of all layers do not fit into memory.

    Raises:
        ValueError: the message names the number of hours that fit.
    """
    depth = len(model.encoder.layers)
    check_room(seconds, depth * model.encoder.d_model * 4 / encoder_times(model).step, f"the outputs of {depth} layers")


def evaluate(
    model: BiRQModel,
    utterances: Utterances,
    progress: Progress,
    kmeans: bool = True,
    kmeans_frames: int = 100_000,
    ignore_silence: bool = False,
) -> Evaluation:
    """Compares all sets of labels of all frames with the phones at the middles of the frames.

    Args:
        model: model in evaluation mode.
        utterances: utterances with alignments.
        progress: shows the progress of the work.
        kmeans: also cluster the output of each layer, into as many clusters as there are codes.
        kmeans_frames: number of frames to fit the clusters on.
        ignore_silence: leave out frames of silence.

    Raises:
        ValueError: the audio does not fit into memory, or no utterance can be read.
    """
    check_memory(model, utterances.seconds)
    check_longest(model, utterances.speech.data, list(utterances.speech.rows.values()))
    sample_rate = model.cfg.sample_rate
    advance = progress.start("all layers of all utterances", utterances.seconds)
    frames = collect_frames(
        model, utterances.speech.load(sample_rate), lambda batch: advance(float(batch.signal_length.sum()) / sample_rate)
    )

    names = sorted({item.symbol for items in utterances.alignments.phones.values() for item in items})
    at_anchor = phones_of_frames(utterances, frames.counts, anchor_times(model), names)
    at_encoder = phones_of_frames(utterances, frames.counts, encoder_times(model), names)
    silence = names.index(SILENCE) if SILENCE in names else None
    num_codes = model.birq.quantizer.num_codes
    notes = _notes(model, utterances, frames.counts)
    if kmeans and len(frames.anchor) < num_codes:
        notes.append(f"There is no k-means: {len(frames.anchor)} frames are too few for {num_codes} clusters.")
        kmeans = False
    rows, joint = [], {}
    for labels, layer, codes in label_sets(model, frames, kmeans_frames if kmeans else 0, progress):
        phones = at_anchor if labels == "anchor" else at_encoder
        counted = (phones >= 0) & ~(ignore_silence & (phones == silence))
        counts = joint_counts(phones[counted], codes[counted], len(names), num_codes)
        rows.append(LabelSetScore(labels, layer, num_codes, score_labels(counts)))
        if labels in ("anchor", "enhanced"):
            joint[labels] = counts
    chance = max(row.quality.pnmi_by_chance for row in rows)
    if chance > MAX_PNMI_BY_CHANCE:
        notes.append(
            f"With {rows[0].quality.frames:,} frames, {num_codes} codes assigned at random have a PNMI of up to "
            f"{chance:.2f}. Compare the PNMI above chance, or use more audio."
        )
    return Evaluation(
        rows=rows,
        phones=names,
        joint=joint,
        layer=model.layer,
        phone_entropy=phone_entropy(joint["enhanced"]),
        frames_without_phone=int((at_encoder < 0).sum()),
        silence_share=float((at_encoder == silence).sum() / max(1, (at_encoder >= 0).sum())),
        notes=notes,
    )


def phones_of_frames(utterances: Utterances, counts: dict[str, int], times: FrameTimes, names: list[str]) -> np.ndarray:
    """Returns the number of the phone at the middle of each frame, (N,) int64; -1: there is no phone."""
    number = {name: i for i, name in enumerate(names)} | {None: -1}
    found = [phones_at(utterances.alignments.phones[name], times.middles(count)) for name, count in counts.items()]
    return np.array([number[phone] for phones in found for phone in phones], dtype=np.int64)


def _notes(model: BiRQModel, utterances: Utterances, read: dict[str, int]) -> list[str]:
    notes = []
    if utterances.unaligned:
        notes.append(f"{len(utterances.unaligned)} utterances have no alignment: {_some(utterances.unaligned)}.")
    unused = sorted(utterances.alignments.names - utterances.lines.keys())
    if unused:
        notes.append(
            f"{len(unused)} alignments were not used: their utterances are not in the manifest, or were not drawn: "
            f"{_some(unused)}."
        )
    unread = sorted(utterances.lines.keys() - read.keys())
    if unread:
        notes.append(f"{len(unread)} utterances could not be read: {_some(unread)}.")
    unknown = unknown_phones(utterances.alignments.phones)
    if unknown:
        notes.append(f"{len(unknown)} symbols are not in ARPAbet; each counts as a phone: {_some(unknown)}.")
    if model.teacher is not None:
        notes.append(
            f"The anchor labels are those of a teacher: {model.teacher.num_clusters} clusters of layer "
            f"{model.teacher.file.layer} of {model.teacher.file.made_from}."
        )
    if model.birq.quantizer.num_books > 1:
        notes.append(f"The first of {model.birq.quantizer.num_books} codebooks was evaluated.")
    if not model.enhanced_labeler.normalization.has_statistics:
        notes.append(
            "The model made no enhanced labels in training so far, because w1 was 0. It has no statistics of layer k, so "
            "the statistics of this audio were used."
        )
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def which_layer(evaluation: Evaluation) -> str:
    """Describes which layer k agrees most with the phones, in one or two sentences."""
    nearest, clustered = evaluation.of("layer"), evaluation.of("kmeans")
    best = max(nearest, key=lambda row: row.quality.pnmi)
    anchor = evaluation.rows[0].quality.pnmi
    answer = f"Nearest codes have the highest PNMI in layer {best.layer} ({best.quality.pnmi:.3f})"
    if best.layer == evaluation.layer:
        answer += ", which is the model's k"
    else:
        answer += f"; the model's k = {evaluation.layer} has {nearest[evaluation.layer - 1].quality.pnmi:.3f}"
    answer += f", the anchor labels {anchor:.3f}."
    above = max(nearest, key=lambda row: row.quality.above_chance)
    if above.layer != best.layer:
        answer += f" The share above chance is highest in layer {above.layer}."
    if clustered:
        top = max(clustered, key=lambda row: row.quality.pnmi)
        also = " too" if top.layer == best.layer else ""
        answer += f" With k-means it is layer {top.layer}{also} ({top.quality.pnmi:.3f})."
    return answer
