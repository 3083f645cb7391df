"""ABX error rates by fastabx (arXiv 2505.02692): how often X, of the phone of A, is nearer to B than to A."""

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nemo_birq.evaluation.abx.items import NEXT, PHONE_COLUMN, PREVIOUS, SPEAKER, TRIPHONE, Items

if TYPE_CHECKING:
    from fastabx import Dataset

MISSING = (
    "ABX needs fastabx, which needs Python 3.12 or later. Make an environment with such a Python and install "
    "'nemo_birq[abx]' in it; the other columns work without it"
)
MAX_SIZE_GROUP, MAX_X_ACROSS = 10, 5
"""Items of a cell, and speakers of X for each pair of A and B, as in ZeroSpeech."""


class AbxErrors(NamedTuple):
    """Error rates between 0 and 1, 0.5 by chance; None where the items make no triple."""

    within: float | None
    """A, B and X are of one speaker."""
    across: float | None
    """A and B are of one speaker, X is of another one."""
    triples_within: int
    triples_across: int


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
        return AbxErrors(None, None, 0, 0)
    try:
        import polars
        from fastabx import Dataset, InMemoryAccessor
    except ImportError as error:
        raise ImportError(MISSING) from error
    accessor = InMemoryAccessor(dict(enumerate(items.spans)), frames.float(), frames.device)
    dataset = Dataset(labels=polars.DataFrame(items.labels), accessor=accessor)
    context = [PREVIOUS, NEXT] if unit == TRIPHONE else []
    within, within_count = _error(dataset, [*context, SPEAKER], [], unit)
    across, across_count = _error(dataset, context, [SPEAKER], unit)
    return AbxErrors(within, across, within_count, across_count)


@torch.inference_mode()
def _error(dataset: "Dataset", by: list[str], across: list[str], unit: str) -> tuple[float | None, int]:
    """Returns the error rate and the number of triples."""
    from fastabx import EmptyTaskError, Score, Subsampler, Task

    subsampler = Subsampler(MAX_SIZE_GROUP, MAX_X_ACROSS)
    try:
        task = Task(dataset, on=PHONE_COLUMN, by=by, across=across, subsampler=subsampler)
    except EmptyTaskError:
        return None, 0
    score = Score(task, "angular", progress=False)
    levels = [(NEXT, PREVIOUS), SPEAKER] if unit == TRIPHONE else [SPEAKER]
    return score.collapse(levels=levels), int(score.cells["size"].sum())
