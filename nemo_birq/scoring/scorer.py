"""Scoring of one recognizer on several test sets, with a file for each score and for the trials of tuning."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nemo.collections.asr.models import ASRModel

from nemo_birq.scoring.arpa import read_arpa
from nemo_birq.scoring.audio import check_audio
from nemo_birq.scoring.beam_search import BeamSearch, kind_of, open_beam_search
from nemo_birq.scoring.eval_sets import TestSet
from nemo_birq.scoring.pictures import draw_score
from nemo_birq.scoring.recognizers import check_ctc, check_recognizer, find_context, open_recognizer, use_ctc
from nemo_birq.scoring.record import finished, made_from
from nemo_birq.scoring.results import score
from nemo_birq.scoring.score_file import check_score
from nemo_birq.scoring.tables import describe_decoding
from nemo_birq.scoring.transcription import outputs
from nemo_birq.scoring.tuning import Trial, read_trials, tune
from nemo_birq.utils.files import fingerprint, write_json
from nemo_birq.utils.progress import Progress


@dataclass(frozen=True)
class LanguageModel:
    """An n-gram language model, the weights for decoding, and the grid for their tuning."""

    path: Path
    beam_size: int
    weights: tuple[float, float]
    grid: tuple[list[float], list[float]]


def language_model(
    path: Path, beam_size: int | None = None, alpha: float | None = None, beta: float | None = None,
    alphas: list[float] | None = None, betas: list[float] | None = None,
) -> LanguageModel:  # fmt: skip
    """Describes a language model; missing values get the defaults for n-grams of words or of tokens.

    Raises:
        FileNotFoundError, ValueError, ImportError: as ``read_arpa`` and ``kind_of``.
    """
    kind = kind_of(read_arpa(path))
    weights = tuple(first if given is None else given for given, first in zip((alpha, beta), kind.weights, strict=True))
    return LanguageModel(path, beam_size or kind.beam_size, weights, (alphas or kind.grid[0], betas or kind.grid[1]))


class Scorer:
    """A recognizer, its decoding and the folder of its scores.

    Model and language model are opened when they are needed first; existing scores need neither.

    Args:
        path: ``.nemo`` of a recognizer.
        out: folder for the results, which is created first so that errors appear before any work.
        progress: display of the finished utterances.
        redo: compute existing scores again, and overwrite them.
        lm: language model; None decodes greedily.
        look_ahead: look-ahead of a streaming encoder, in its frames; None: that of the file.

    Raises:
        FileNotFoundError, ValueError: as ``check_recognizer`` and ``find_context``; also for a language model without CTC.
        OSError: the folder cannot be created.
    """

    def __init__(
        self, path: Path, out: Path, progress: Progress, device: str = "cpu", batch_size: int = 16,
        normalization: str = "default", redo: bool = False, lm: LanguageModel | None = None, look_ahead: int | None = None,
    ):  # fmt: skip
        kind = check_recognizer(path)
        self.look_ahead = look_ahead
        self.context = None if look_ahead is None else find_context(path, look_ahead)
        if lm:
            check_ctc(kind)
        out.mkdir(parents=True, exist_ok=True)
        self.path, self.out, self.progress, self.device, self.batch_size = path, out, progress, device, batch_size
        self.normalization, self.redo, self.lm = normalization, redo, lm
        self._opened: tuple[ASRModel, BeamSearch | None] | None = None

    def result_path(self, name: str) -> Path:
        """Returns the file with the score of the test set ``name``."""
        ahead = "" if self.look_ahead is None else f"_look_ahead_{self.look_ahead}"
        return self.out / f"{self.path.stem}_{name}_{self.lm.path.stem if self.lm else 'greedy'}{ahead}.json"

    def decoding(self, weights: tuple[float, float] | None = None, tuned_on: TestSet | None = None) -> dict:
        """Describes the decoding for the files; ``weights`` are alpha and beta if tuning has chosen them."""
        if not self.lm:
            return self._search()
        found = self._search() | dict(zip(("alpha", "beta"), weights or self.lm.weights, strict=True))
        return found | ({"tuned_on": fingerprint(tuned_on.manifest)} if tuned_on else {})

    def tune(self, dev: TestSet) -> list[Trial]:
        """Decodes a development set with each pair of weights of the grid.

        Raises:
            ValueError: as ``finished``, ``check_audio`` and ``open_beam_search``.
        """
        alphas, betas = self.lm.grid
        path = self.result_path(f"tuning_{dev.name}")
        made = made_from(self.path, dev.manifest, self._search() | {"alphas": alphas, "betas": betas}, self.normalization)
        found = finished(path, made, self.redo)
        if found is None:
            check_audio(dev.manifest)
            model, beam = self._open()
            advance = self.progress.start(f"{dev.name}: model", len(dev.lines))
            log_probs = outputs(model, dev.manifest, dev.lines, self.batch_size, advance)
            advance = self.progress.start(f"{dev.name}: pairs of weights", len(alphas) * len(betas))
            trials = tune(beam, dev.lines, log_probs, alphas, betas, self.normalization, advance)
            found = {"made_from": made, "manifest": str(dev.manifest), "trials": [asdict(trial) for trial in trials]}
            write_json(path, found)
        return read_trials(path, found, alphas, betas)

    def existing_scores(self, tests: list[TestSet], decoding: dict) -> dict[str, dict | None]:
        """Reads the existing scores, by the name of the test set; None for a missing score.

        Raises:
            ValueError: as ``finished`` and ``check_score``, for any of them.
        """
        scores = {}
        for test in tests:
            path = self.result_path(test.name)
            scores[test.name] = found = finished(path, self._made(test, decoding), self.redo)
            if found is not None:
                check_score(path, found)
        return scores

    def score(self, test: TestSet, decoding: dict) -> dict:
        """Decodes and scores a test set, and writes file and picture."""
        model, beam = self._open()
        if beam:
            beam.set_weights(decoding["alpha"], decoding["beta"])
        advance = self.progress.start(test.name, len(test.lines))
        rates = score(model, test.manifest, self.batch_size, beam, self.normalization, advance)
        about = beam.about if beam else f"{model.cfg.decoding.strategy}, {type(model).__name__}"
        made = self._made(test, decoding)
        found = {"model": str(self.path), "name": test.name, "made_from": made, "decoding": about} | rates
        path = self.result_path(test.name)
        write_json(path, found)
        if found["lengths"] or found["speakers"]:
            draw_score(found, f"{self.path.stem} on {test.name}\n{describe_decoding(found)}", path.with_suffix(".png"))
        return found

    def _made(self, test: TestSet, decoding: dict) -> dict:
        return made_from(self.path, test.manifest, decoding, self.normalization)

    def _search(self) -> dict[str, Any]:
        found = {"search": "greedy"}
        if self.lm:
            found = {"search": "beam", "lm": fingerprint(self.lm.path), "beam_size": self.lm.beam_size}
        return found | ({} if self.look_ahead is None else {"look_ahead": self.look_ahead})

    def _open(self) -> tuple[ASRModel, BeamSearch | None]:
        if self._opened is None:
            advance = self.progress.start(f"opening {self.path}", 1)
            model, beam = open_recognizer(self.path, self.device), None
            if self.context is not None:
                model.encoder.set_default_att_context_size(self.context)
            if self.lm:
                use_ctc(model)
                beam = open_beam_search(self.lm.path, model, self.lm.beam_size)
            self._opened = model, beam
            advance(1)
        return self._opened
