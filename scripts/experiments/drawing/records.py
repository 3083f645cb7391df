"""Records of runs: their json files, read, checked, and grouped by budget and corpus."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.budgets import KINDS
from experiments.drawing.record_form import RECORD, STAGE, find_problem
from experiments.results import SCHEMA

FIRST = ("scratch", "best_rq", "relabelled", "birq")
"""First methods of the tables; the others follow by name."""
NAMES = {
    "scratch": "from scratch", "best_rq": "BEST-RQ", "relabelled": "offline relabelling", "birq": "BiRQ, random codes",
    "birq_layer_1": "BiRQ, layer 1", "birq_tracked": "BiRQ, tracked codes", "best_rq_refined": "BEST-RQ, fitted codes",
    "best_rq_refined_1": "BEST-RQ, fitted, 1 codebook", "refined_tracked": "BiRQ, fitted and tracked codes",
    "birq_tracked_noise": "BiRQ, tracked codes, under noise", "synthetic_best_rq": "BEST-RQ of synthetic speech",
    "continued_best_rq": "BEST-RQ of synthetic speech, continued",
    "paper": "the paper's values", "paper_late": "the paper's values, later",
    "label_gradient": "gradient through the labels",
    "label_gradient_0.1": "0.1 of the gradient through the labels", "tracked": "tracked codes",
    "tracked_layer_1": "tracked codes, layer 1", "tracked_gradient": "tracked codes, gradient through the labels",
    "layer_norm": "LayerNorm of each frame", "whiten": "whitening", "shared_head": "one head for both tasks",
    "no_warm_up": "w1 from the first step on", "logit_scale_10": "logit_scale 10", "logit_scale_160": "logit_scale 160",
    "w1_1": "w1 = 1", "w1_0.1": "w1 = 0.1", "hard": "straight-through selection", "temperature_1": "temperature 1",
    "books_8": "eight codebooks", "dropout": "dropout 0.1", "label_dropout": "dropout 0.1, in the label pass too",
}  # fmt: skip
"""Names of the settings for readers; results and commands have those of conf/experiments."""
MAX_KEYS = 4  # named in a warning

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Record:
    """The json file of one run."""

    path: Path
    content: dict[str, Any]

    @property
    def method(self) -> str:
        return self.content["method"]

    @property
    def seed(self) -> int:
        return self.content["seed"]

    @property
    def description(self) -> str:
        return self.content["description"]

    @property
    def scores(self) -> dict[str, Any] | None:
        return self.content["scores"]

    @property
    def finetuning(self) -> dict[str, Any] | None:
        return self.content["finetuning"]

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Stages of pretraining in order: none from scratch; teacher, clustering and student of relabelling; else one."""
        found = self.content["pretraining"]
        return [] if found is None else found.get("stages") or [found]

    def spent(self, key: str) -> float | None:
        """Returns ``seconds`` or ``processor_seconds`` of the whole pretraining; None from scratch."""
        return sum(stage[key] for stage in self.stages) if self.stages else None

    @property
    def peak_memory_gb(self) -> float | None:
        return max((known for stage in self.stages if (known := stage["peak_memory_gb"]) is not None), default=None)

    @property
    def final(self) -> dict[str, float]:
        """Values of the last validation of pretraining, by tag."""
        return self.stages[-1]["final"] if self.stages else {}

    def curve(self, tag: str) -> Curve:
        """Returns a curve of pretraining; empty if it was not logged.

        The steps of a later stage follow those of the stage before, after a gap (NaN).
        """
        points, before = [], 0
        for stage in self.stages:
            found = [(before + step, value) for step, value in stage["curves"].get(tag, []) if value is not None]
            points += [(before - 0.5, math.nan), *found] if points and found else found
            before += stage["steps"]
        return points

    def finetuning_curve(self, tag: str) -> Curve:
        """Returns a curve of fine-tuning; empty if it was not logged."""
        return [] if self.finetuning is None else [tuple(point) for point in self.finetuning["curves"].get(tag, [])]

    def quality(self, kind: str) -> list[dict[str, Any]]:
        """Returns the rows of ``labels`` that have a PNMI, by step; steps of a last stage count as in ``curve``.

        Args:
            kind: ``anchor``, ``nearest``, ``kmeans``, or ``own``: the labels of a teacher if there is one, else the
                enhanced labels.
        """
        before = sum(stage["steps"] for stage in self.stages[:-1])
        known = {row["labels"] for row in self.content["labels"]}
        kind = ("relabelled" if "relabelled" in known else "enhanced") if kind == "own" else kind
        rows = [row for row in self.content["labels"] if row["labels"] == kind and row["pnmi"] is not None]
        return [row | {"step": before + row["step"]} for row in sorted(rows, key=lambda row: row["step"])]


@dataclass
class Group:
    """All records of one budget on one corpus."""

    budget: str
    corpus: str
    methods: dict[str, list[Record]]
    """Records by method, in the order of the tables; those of a method by seed."""
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.budget}_{self.corpus}"

    @property
    def title(self) -> str:
        return f"{self.budget}, {self.corpus}"

    @property
    def records(self) -> list[Record]:
        return [record for records in self.methods.values() for record in records]

    def of(self, kind: str) -> dict[str, list[Record]]:
        """Returns the methods of a kind, ``method`` or ``ablation``."""
        return {name: records for name, records in self.methods.items() if records[0].content["kind"] == kind}


def read_groups(folder: Path) -> list[Group]:
    """Reads all json files below a folder; groups with recognizers come first, then the order is that of their names.

    Raises:
        FileNotFoundError: the folder does not exist, or has no json file.
        ValueError: a file is not a record, two records are of the same run, or test sets differ; the message names the file.
    """
    paths = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"no json file below {folder}; scripts/experiment.py writes one for each run")
    gathered: dict[tuple[str, str], dict[str, dict[int, Record]]] = {}
    for path in paths:
        record = read_record(path)
        group = gathered.setdefault((record.content["budget"], record.content["corpus"]), {})
        seeds = group.setdefault(record.method, {})
        if record.seed in seeds:
            raise ValueError(f"{path} and {seeds[record.seed].path} are the same run (method and seed); remove one of them")
        seeds[record.seed] = record
    groups = [_group(*names, methods) for names, methods in sorted(gathered.items())]
    return sorted(groups, key=lambda group: all(record.scores is None for record in group.records))


def read_record(path: Path) -> Record:
    """Reads one file and checks its keys.

    Raises:
        ValueError: the file is not a record, has another schema or lacks a key; the message names the file and the key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not json: {error}") from error
    if not isinstance(content, dict) or "schema" not in content:
        raise ValueError(f"{path} is not the record of a run: it has no key 'schema'; move it elsewhere")
    if content["schema"] != SCHEMA:
        raise ValueError(f"{path} has schema {content['schema']}, this version reads {SCHEMA}; run the experiment again")
    _check_form(content, RECORD, path)
    if content["kind"] not in KINDS:
        raise ValueError(f"{path}: kind is {content['kind']!r}, not one of {KINDS}")
    record = Record(path, content)
    _check_form(record.stages, [STAGE], path, "pretraining")
    if record.scores is not None:
        _check_scores(record.scores, path)
    return record


def _check_form(content: Any, form: Any, path: Path, where: str = "") -> None:
    if problem := find_problem(content, form, where):
        raise ValueError(f"{path} is damaged or not a record of this version: {problem}; run the experiment again")


def _check_scores(scores: dict[str, Any], path: Path) -> None:
    rows = scores["errors"]
    if not rows:
        raise ValueError(f"{path}: scores.errors has no utterance")
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError(f"{path}: scores.errors has an utterance more than once, so that utterances cannot be paired")
    for rate, errors, units in (("cer", 2, 3), ("wer", 4, 5)):
        found = sum(row[errors] for row in rows) / max(1, sum(row[units] for row in rows))
        if not math.isclose(found, scores[rate], abs_tol=1e-4):
            raise ValueError(f"{path}: scores.{rate} is {scores[rate]:.4f}, but scores.errors sum to {found:.4f}")


def _group(budget: str, corpus: str, methods: dict[str, dict[int, Record]]) -> Group:
    def place(name: str) -> tuple[int, str]:
        return (FIRST.index(name) if name in FIRST else len(FIRST), name)

    ordered = {name: [methods[name][seed] for seed in sorted(methods[name])] for name in sorted(methods, key=place)}
    group = Group(budget, corpus, ordered)
    _check_test_set(group)
    group.warnings = [*_method_warnings(group), *_group_warnings(group)]
    return group


def _check_test_set(group: Group) -> None:
    """Checks that all records were scored on the same utterances, since they are compared in pairs."""
    scored = [record for record in group.records if record.scores is not None]
    sets = [{(row[0], row[3], row[5]) for row in record.scores["errors"]} for record in scored]
    for record, found in zip(scored, sets, strict=True):
        if found != sets[0]:
            other = sorted(found ^ sets[0], key=str)[0][0]
            raise ValueError(f"{record.path} was scored on another test set than {scored[0].path} (utterance {other} "
                             "differs); give another corpus another name")  # fmt: skip


def _method_warnings(group: Group) -> Iterator[str]:
    """Yields a warning for each method whose records differ in more than the seed."""
    for name, records in group.methods.items():
        for part in ("config", "finetune_config"):
            if keys := _differing(records, lambda record, part=part: record.content[part]):
                yield (f"The runs of {name} differ in more than the seed ({part}: {keys}): their mean is one of different "
                       "settings.")  # fmt: skip


def _group_warnings(group: Group) -> Iterator[str]:
    """Yields a warning for everything that differs between methods and should not."""
    tuned = [records[0] for records in group.of("method").values() if records[0].finetuning is not None]
    if keys := _differing(tuned, lambda record: record.content["finetune_config"]):
        yield f"The methods were not fine-tuned alike ({keys}): the comparison is not of pretraining alone."
    if keys := _differing(group.records, lambda record: record.content["versions"]):
        yield f"The runs used different versions ({keys})."
    if keys := _differing(group.records, lambda record: record.content["machine"]):
        yield f"The runs used different machines ({keys}): times and memory are not comparable."
    seeds = {name: tuple(record.seed for record in records) for name, records in group.of("method").items()}
    if len(set(seeds.values())) > 1:
        listed = "; ".join(f"{name} {', '.join(map(str, found))}" for name, found in seeds.items())
        yield f"The methods do not have the same seeds ({listed}): differences are over those that two methods share."


def _differing(records: list[Record], part: Callable[[Record], Any]) -> str:
    """Names keys whose values differ between records, except seeds, names of a run's files and the start of training."""
    flat = [dict(_flattened(part(record), record)) for record in records]
    keys = sorted({key for one in flat for key in one.keys() | flat[0].keys() if one.get(key) != flat[0].get(key)})
    return ", ".join(keys[:MAX_KEYS]) + (f" and {len(keys) - MAX_KEYS} more" if len(keys) > MAX_KEYS else "")


def _flattened(value: Any, record: Record, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flattened(inner, record, f"{key}.{name}" if key else name)
    elif not key.endswith("seed") and not key.startswith(("init_from", "exp_manager")):
        text = json.dumps(value, sort_keys=True)
        yield key, text.replace(f"{record.method}_seed{record.seed}", "*").replace(f"seed{record.seed}", "*")
