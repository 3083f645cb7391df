"""ABX error rates by fastabx (arXiv 2505.02692): how often X, of the phone of A, is nearer to B than to A."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nemo_birq.evaluation.abx.items import NEXT, PHONE_COLUMN, PREVIOUS, SPEAKER, TRIPHONE, Items
from nemo_birq.scoring.confidence import jackknife_interval

if TYPE_CHECKING:
    import polars
    from fastabx import Dataset

MISSING = (
    "ABX needs fastabx, which needs Python 3.12 or later. Make an environment with such a Python and install "
    "'nemo_birq[abx]' in it; the other columns work without it"
)
MAX_SIZE_GROUP, MAX_X_ACROSS = 10, 5
"""Items of a cell, and speakers of X for each pair of A and B, as in ZeroSpeech."""


class AbxError(NamedTuple):
    """An error rate, and what it would be without the items of one speaker."""

    error: float | None
    """Between 0 and 1, 0.5 by chance; None where the items make no triple."""
    triples: int
    without_speaker: dict[str, float]
    """The error rate without each speaker of the triples, by name; empty where a rate would have no triples."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval for other speakers, by the jackknife; None where leaving out a speaker leaves no triples."""
        if not self.without_speaker:
            return None
        found = jackknife_interval(self.error, np.array(list(self.without_speaker.values())))
        return found and (max(found[0], 0.0), min(found[1], 1.0))

    def as_json(self) -> dict[str, Any]:
        return {"error": self.error, "interval": self.interval} | self._asdict()


NO_TRIPLES = AbxError(None, 0, {})


class AbxErrors(NamedTuple):
    """Both error rates of one representation."""

    within: AbxError
    """A, B and X are of one speaker."""
    across: AbxError
    """A and B are of one speaker, X is of another one."""

    def as_json(self) -> dict[str, Any]:
        return {kind: error.as_json() for kind, error in self._asdict().items()}


def is_available() -> bool:
    """Returns True if fastabx can be imported."""
    try:
        import fastabx  # noqa: F401
    except ImportError:
        return False
    return True


def abx_errors(frames: Tensor, items: Items, unit: str) -> AbxErrors:
    """Computes the error rates of one representation with the angular distance and dynamic time warping.

    Contexts and speakers are averaged as ``fastabx.zerospeech_abx`` does.

    Args:
        frames: (N, D) of all utterances, float16 or float32; computed on their device.
        items: see ``items.find_items``.
        unit: ``triphone`` compares phones with equal neighbours alone, ``phone`` with any neighbours.

    Raises:
        ImportError: there is no fastabx.
    """
    if not items.spans:
        return AbxErrors(NO_TRIPLES, NO_TRIPLES)
    try:
        import polars
        from fastabx import Dataset, InMemoryAccessor
    except ImportError as error:
        raise ImportError(MISSING) from error
    accessor = InMemoryAccessor(dict(enumerate(items.spans)), frames.float(), frames.device)
    dataset = Dataset(labels=polars.DataFrame(items.labels), accessor=accessor)
    context = [PREVIOUS, NEXT] if unit == TRIPHONE else []
    return AbxErrors(_error(dataset, [*context, SPEAKER], [], unit), _error(dataset, context, [SPEAKER], unit))


@torch.inference_mode()
def _error(dataset: "Dataset", by: list[str], across: list[str], unit: str) -> AbxError:
    from fastabx import EmptyTaskError, Score, Subsampler, Task

    subsampler = Subsampler(MAX_SIZE_GROUP, MAX_X_ACROSS)
    try:
        task = Task(dataset, on=PHONE_COLUMN, by=by, across=across, subsampler=subsampler)
    except EmptyTaskError:
        return NO_TRIPLES
    score = Score(task, "angular", progress=False)
    levels = [(NEXT, PREVIOUS), SPEAKER] if unit == TRIPHONE else [SPEAKER]
    return AbxError(
        score.collapse(levels=levels), int(score.cells["size"].sum()), _without_each_speaker(score.cells, levels)
    )


def _without_each_speaker(cells: "polars.DataFrame", levels: list[tuple[str, ...] | str]) -> dict[str, float]:
    """Averages the cells anew, as ``Score.collapse`` does, without those that hold items of one speaker."""
    import polars
    from fastabx.score import score_details

    columns = [name for name in (SPEAKER, f"{SPEAKER}_x") if name in cells.columns]  # the speaker of X, if it is another
    found = {}
    for speaker in sorted(set().union(*(cells[name] for name in columns))):
        rest = cells.filter(polars.all_horizontal(polars.col(name) != speaker for name in columns))
        if rest.is_empty():
            return {}
        found[speaker] = float(score_details(rest, levels=levels)["score"].mean())
    return found
