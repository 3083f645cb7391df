"""The json files of runs: read, checked, and gathered by budget and corpus."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.results import SCHEMA

FIRST = ("scratch", "best_rq", "relabelled", "birq")
"""Methods in the order of the tables; others follow by name."""
KINDS = ("method", "ablation")
KEYS = (
    "budget", "corpus", "method", "kind", "seed", "description", "overrides", "commands", "config", "finetune_config",
    "versions", "machine", "parameters", "pretraining", "labels", "finetuning", "scores",
)  # fmt: skip
NESTED = {
    "pretraining": (
        "steps",
        "audio_hours_seen",
        "seconds",
        "processor_seconds",
        "peak_memory_gb",
        "curves",
        "final",
        "alarms",
    ),
    "labels": ("step", "labels", "pnmi", "pnmi_by_chance"),
    "finetuning": ("steps", "seconds", "processor_seconds", "peak_memory_gb", "labelled_hours", "curves"),
    "scores": ("wer", "cer", "words", "characters", "utterances", "errors"),
}

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Run:
    """One file."""

    path: Path
    content: dict[str, Any]

    @property
    def method(self) -> str:
        return self.content["method"]

    @property
    def seed(self) -> int:
        return self.content["seed"]

    @property
    def scores(self) -> dict[str, Any] | None:
        return self.content["scores"]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Of pretraining, in their order: none from scratch; of relabelling teacher, clustering, student; else one."""
        found = self.content["pretraining"]
        return [] if found is None else found.get("stages") or [found]

    def spent(self, key: str) -> float | None:
        """``seconds`` or ``processor_seconds`` of the whole pretraining; None from scratch."""
        if not self.stages:
            return None
        whole = self.content["pretraining"].get(key)
        return whole if whole is not None else sum(stage[key] or 0 for stage in self.stages)

    @property
    def peak_memory_gb(self) -> float | None:
        return max((known for stage in self.stages if (known := stage["peak_memory_gb"]) is not None), default=None)

    @property
    def final(self) -> dict[str, float]:
        """Last validation of pretraining, by tag."""
        return self.stages[-1]["final"] if self.stages else {}

    def curve(self, tag: str) -> Curve:
        """Of pretraining; a later stage goes on where the one before ended, after a gap (NaN). Empty where not logged."""
        points, before = [], 0
        for stage in self.stages:
            found = [(before + step, value) for step, value in stage["curves"].get(tag, []) if value is not None]
            points += [(before - 0.5, math.nan), *found] if points and found else found
            before += stage["steps"]
        return points

    def finetuning_curve(self, tag: str) -> Curve:
        found = self.content["finetuning"]
        return [] if found is None else [tuple(point) for point in found["curves"].get(tag, [])]

    def quality(self, kind: str) -> list[dict[str, Any]]:
        """Rows of ``labels`` of this kind that have a PNMI, by step; those of a last stage count on as ``curve`` does.

        Args:
            kind: ``anchor``, ``nearest``, ``kmeans``, or ``own``: of a teacher where there is one, else the enhanced ones.
        """
        before = sum(stage["steps"] for stage in self.stages[:-1])
        known = {row["labels"] for row in self.content["labels"]}
        kind = ("relabelled" if "relabelled" in known else "enhanced") if kind == "own" else kind
        rows = [row for row in self.content["labels"] if row["labels"] == kind and row["pnmi"] is not None]
        return [row | {"step": before + row["step"]} for row in sorted(rows, key=lambda row: row["step"])]


@dataclass
class Group:
    """All runs of one budget on one corpus."""

    budget: str
    corpus: str
    methods: dict[str, list[Run]]
    """In the order of the tables; runs by seed."""
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.budget}_{self.corpus}"

    @property
    def runs(self) -> list[Run]:
        return [run for runs in self.methods.values() for run in runs]

    def of(self, kind: str) -> dict[str, list[Run]]:
        return {name: runs for name, runs in self.methods.items() if runs[0].content["kind"] == kind}


def read_groups(folder: Path) -> list[Group]:
    """All json files below a folder; groups with recognizers come first, then the order is that of their names.

    Raises:
        FileNotFoundError: no folder, or none in it.
        ValueError: a file that is not of a run, two of the same run, runs with different test sets; names the file.
    """
    paths = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"no json file below {folder}; scripts/experiment.py writes one for each run")
    gathered: dict[tuple[str, str], dict[str, dict[int, Run]]] = {}
    for path in paths:
        run = read_run(path)
        seeds = gathered.setdefault((run.content["budget"], run.content["corpus"]), {}).setdefault(run.method, {})
        if run.seed in seeds:
            raise ValueError(f"{path} and {seeds[run.seed].path} are the same run (method and seed); remove one of them")
        seeds[run.seed] = run
    groups = [_group(*names, methods) for names, methods in sorted(gathered.items())]
    return sorted(groups, key=lambda group: all(run.scores is None for run in group.runs))


def read_run(path: Path) -> Run:
    """One file, its keys checked.

    Raises:
        ValueError: something else, another schema, a missing key; names the file and the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not json: {error}") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise ValueError(f"{path} is not the record of a run: it has no key 'schema'; move it elsewhere")
    if content["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {content['schema']}, this version reads {SCHEMA}; run the experiment again")
    _need(content, KEYS, path, "")
    if content["kind"] not in KINDS:
        raise ValueError(f"{path}: kind is {content['kind']!r}, not one of {KINDS}")
    run = Run(path, content)
    for stage in run.stages:
        _need(stage, NESTED["pretraining"], path, "pretraining.")
    for row in content["labels"]:
        _need(row, NESTED["labels"], path, "labels[].")
    for part in ("finetuning", "scores"):
        if content[part] is not None:
            _need(content[part], NESTED[part], path, f"{part}.")
    if run.scores is not None:
        _check_scores(run.scores, path)
    return run


def _need(content: dict[str, Any], keys: tuple[str, ...], path: Path, where: str) -> None:
    missing = [where + key for key in keys if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; run the experiment again")


def _check_scores(scores: dict[str, Any], path: Path) -> None:
    rows = scores["errors"]
    if not rows or any(len(row) != 6 for row in rows):
        raise ValueError(f"{path}: scores.errors needs rows of six: utterance, speaker, character errors, characters, "
                         "word errors, words")  # fmt: skip
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError(f"{path}: scores.errors has an utterance more than once; pairs cannot be told")
    for rate, errors, units in (("cer", 2, 3), ("wer", 4, 5)):
        found = sum(row[errors] for row in rows) / max(1, sum(row[units] for row in rows))
        if not math.isclose(found, scores[rate], abs_tol=1e-4):
            raise ValueError(f"{path}: scores.{rate} is {scores[rate]:.4f}, but scores.errors sum to {found:.4f}")


def _group(budget: str, corpus: str, methods: dict[str, dict[int, Run]]) -> Group:
    def place(name: str) -> tuple[int, str]:
        return (FIRST.index(name) if name in FIRST else len(FIRST), name)

    ordered = {name: [methods[name][seed] for seed in sorted(methods[name])] for name in sorted(methods, key=place)}
    group = Group(budget, corpus, ordered)
    _check_test_set(group)
    group.warnings = [*_mixed_methods(group), *_mixed_groups(group)]
    return group


def _check_test_set(group: Group) -> None:
    """Pairs of utterances need the same ones everywhere."""
    scored = [run for run in group.runs if run.scores is not None]
    sets = [{(row[0], row[3], row[5]) for row in run.scores["errors"]} for run in scored]
    for run, found in zip(scored, sets, strict=True):
        if found != sets[0]:
            other = sorted(found ^ sets[0], key=str)[0][0]
            raise ValueError(f"{run.path} was scored on another test set than {scored[0].path} (utterance {other} differs); "
                             "give another corpus another name")  # fmt: skip


def _mixed_methods(group: Group) -> Iterator[str]:
    """One method, but settings that differ in more than the seed."""
    for name, runs in group.methods.items():
        for part in ("config", "finetune_config"):
            keys = _differing(runs, lambda run, part=part: run.content[part])
            if keys:
                yield (f"The runs of {name} differ in more than the seed ({part}: {_shortened(keys)}): "
                       "their mean is one of different things.")  # fmt: skip


def _mixed_groups(group: Group) -> Iterator[str]:
    """What all methods should share."""
    tuned = [runs[0] for runs in group.of("method").values() if runs[0].content["finetuning"] is not None]
    if keys := _differing(tuned, lambda run: run.content["finetune_config"]):
        yield f"The methods were not fine-tuned alike ({_shortened(keys)}): the comparison is not of pretraining alone."
    if keys := _differing(group.runs, lambda run: run.content["versions"]):
        yield f"Not all runs are of the same versions ({_shortened(keys)})."
    if keys := _differing(group.runs, lambda run: run.content["machine"]):
        yield f"Not all runs were made on the same machine ({_shortened(keys)}): times and memory do not compare."
    seeds = {name: tuple(run.seed for run in runs) for name, runs in group.of("method").items()}
    if len(set(seeds.values())) > 1:
        told = "; ".join(f"{name} {', '.join(map(str, found))}" for name, found in seeds.items())
        yield f"The methods do not have the same seeds ({told}): differences are over those that two methods share."


def _differing(runs: list[Run], part: Callable[[Run], Any]) -> list[str]:
    """Keys whose values are not the same in all runs, but for seeds, names of files of a run and where it starts from."""
    flat = [dict(_flattened(part(run), run)) for run in runs]
    return sorted({key for one in flat for key in one.keys() | flat[0].keys() if one.get(key) != flat[0].get(key)})


def _flattened(value: Any, run: Run, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flattened(inner, run, f"{key}.{name}" if key else name)
    elif not key.endswith("seed") and not key.startswith(("init_from", "exp_manager")):
        text = json.dumps(value, sort_keys=True)
        yield key, text.replace(f"{run.method}_seed{run.seed}", "*").replace(f"seed{run.seed}", "*")


def _shortened(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
