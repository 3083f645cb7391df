"""Probes of an encoder from its open sets to scores: reads the audio, trains, tests, and notes what was left out."""

from collections.abc import Iterable
from typing import NamedTuple

from nemo_birq.evaluation.probing.data import LabelledSet, describe
from nemo_birq.evaluation.probing.evaluation import ProbeScore, constant_error, evaluate
from nemo_birq.evaluation.probing.linear import Training
from nemo_birq.evaluation.probing.representations import Representation, Represented, check_memory, represent
from nemo_birq.evaluation.probing.tasks import CtcTask, Task
from nemo_birq.extraction.data import SpeechData
from nemo_birq.utils.progress import Advance, Progress


class Speech(NamedTuple):
    """Utterances of one set."""

    data: SpeechData
    rows: list[int]
    """Their numbers in ``data``."""

    @property
    def seconds(self) -> float:
        return float(self.data.durations[self.rows].sum())


class Probed(NamedTuple):
    """Scores of the probes of one task."""

    rows: list[ProbeScore]
    constant_error: float
    """Error rate of a constant answer."""
    notes: list[str]


def check_fits(representations: dict[str, Representation], speech: Iterable[Speech]) -> None:
    """Checks that all outputs fit into memory at once, and the longest utterance into that of the device.

    Raises:
        ValueError: they do not fit.
    """
    speech = list(speech)
    check_memory(list(representations.values()), sum(one.seconds for one in speech))
    for one in speech:
        next(iter(representations.values())).encoder.check_longest(one.data, one.rows)


def read_outputs(
    representations: dict[str, Representation], speech: dict[str, Speech], workers: int, advance: Advance
) -> tuple[dict[str, Represented], list[str]]:
    """Computes the representations of all sets, by name of the set, and notes on utterances that could not be read."""
    found, notes = {}, []
    for name, one in speech.items():
        found[name] = represent(one.data, one.rows, representations, workers, advance)
        if unread := len(one.rows) - len(found[name].rows):
            notes.append(f"{unread} utterances of the {name} set could not be read and are left out.")
    return found, notes


def train_probes(
    outputs: dict[str, Represented],
    sets: dict[str, LabelledSet],
    task: Task,
    representations: dict[str, Representation],
    training: Training,
    progress: Progress,
) -> Probed:
    """Trains and tests the probes of each representation, see ``evaluation.evaluate``.

    Args:
        outputs: by set, ``train``, ``dev`` and ``test``.
        sets, task: of ``data.open_sets``.
        representations: those of ``outputs``; the layers of the last one name the rows.
        training: see ``Training``.
        progress: shows the epochs.
    """
    splits = {name: outputs[name].splits(sets[name], task) for name in sets}
    last = list(representations.values())[-1]
    notes = _left_out(sets)
    first = next(iter(splits["train"].values()))
    if isinstance(task, CtcTask) and (short := task.num_impossible(first.counts, first.targets)):
        notes.append(f"{short} of {len(first.counts)} training utterances have more symbols than frames: not learned from.")
    rows = evaluate(splits, last.layers, task, training, last.encoder.device, progress)
    return Probed(rows, constant_error(first, next(iter(splits["test"].values())), task), notes)


def _left_out(sets: dict[str, LabelledSet]) -> list[str]:
    notes = []
    for name, one in sets.items():
        if one.left_out:
            listed = f"{one.left_out.total()} phones of the {name} set, {describe(one.left_out)}"
            notes.append(f"{listed}, are left out: the training set lacks them.")
    return notes
