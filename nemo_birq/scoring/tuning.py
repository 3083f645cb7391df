"""Choice of the weights of the language model on a development set, from a small grid."""

import itertools
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from nemo.collections.asr.metrics.wer import word_error_rate

from nemo_birq.data.json_lines import show
from nemo_birq.scoring.beam_search import BeamSearch
from nemo_birq.scoring.normalization import normalize
from nemo_birq.utils.progress import Advance

AT_ONCE = 16  # number of utterances in one call of a beam search


@dataclass(frozen=True)
class Trial:
    """A pair of weights and its error rates."""

    alpha: float
    beta: float
    wer: float
    cer: float


def tune(
    beam: BeamSearch, lines: list[dict], outputs: list[torch.Tensor], alphas: list[float], betas: list[float],
    normalization: str, advance: Advance,
) -> list[Trial]:  # fmt: skip
    """Runs a trial for each pair of weights; ``advance`` is called after each trial."""
    references = normalize([line["text"] for line in lines], normalization).texts
    trials = []
    for alpha, beta in itertools.product(alphas, betas):
        beam.set_weights(alpha, beta)
        batches = (outputs[start : start + AT_ONCE] for start in range(0, len(outputs), AT_ONCE))
        hypotheses = normalize([text for batch in batches for text in beam.decode(batch)], normalization).texts
        wer, cer = word_error_rate(hypotheses, references), word_error_rate(hypotheses, references, use_cer=True)
        trials.append(Trial(alpha, beta, wer, cer))
        advance(1)
    return trials


def read_trials(path: Path, found: dict, alphas: list[float], betas: list[float]) -> list[Trial]:
    """Returns the trials of a file.

    Args:
        path: path of the file, for messages.
        found: content of the file.
        alphas, betas: required grid.

    Raises:
        ValueError: the grid differs, a value has another type, or an error rate is not valid.
    """
    given = found.get("trials")
    keys = [field.name for field in fields(Trial)]
    for number, trial in enumerate(given if isinstance(given, list) else [given]):
        values = [trial.get(key) for key in keys] if isinstance(trial, dict) else [trial]
        finite = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6 for v in values)
        if len(values) != len(keys) or not finite or min(values[2:]) < 0:
            raise ValueError(
                f"{path} is damaged: trials[{number}] is {show(trial)}, but must have numbers for {', '.join(keys)}. Tune "
                "again with --redo, or give another folder with --out"
            )
    trials = [Trial(**{key: trial[key] for key in keys}) for trial in given]
    if [(trial.alpha, trial.beta) for trial in trials] != list(itertools.product(alphas, betas)):
        raise ValueError(f"{path} is damaged: its trials do not fit its grid. Tune again with --redo")
    return trials


def best(trials: list[Trial]) -> Trial:
    """Returns the trial with the lowest WER, then the lowest CER, then the first."""
    return min(trials, key=lambda trial: (trial.wer, trial.cer))


def at_the_edge(trials: list[Trial]) -> list[str]:
    """Returns the names of the weights whose best value is at the edge of the grid, so that a better one may be outside."""
    found = best(trials)
    edges = []
    for name in ("alpha", "beta"):
        tried = sorted({getattr(trial, name) for trial in trials})
        if len(tried) > 1 and getattr(found, name) in (tried[0], tried[-1]):
            edges.append(name)
    return edges
