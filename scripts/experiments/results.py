"""One json file a run: from what its commands wrote to what is committed."""

import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.budgets import ROOT
from experiments.corpora import CORPUS, OUT
from experiments.execution import is_done, log_file, read_account
from experiments.stages import LABELS, PRETRAINED, SCORES, Run, Stage
from nemo_birq.checkpoint.nemo_archive import read_weights
from nemo_birq.monitoring.metrics import METRICS
from nemo_birq.report.experiment_folder import read_run
from nemo_birq.utils.files import write_text

SCHEMA = 1
POINTS = 40
PACKAGES = ("nemo_birq", "torch", "nemo_toolkit", "lightning", "lhotse")
LEFT_OUT = {
    "anchor_coverage", "enhanced_coverage", "anchor_top1", "enhanced_top1", "silent_share", "skipped_utterances",
    "skipped_share", "epoch",
}  # fmt: skip
"""Metrics of pretraining that the results do without."""
KEPT = METRICS.keys() - LEFT_OUT | {"wer", "training_batch_wer"}
USELESS_IN_CONFIG = ("train_ds", "validation_ds", "test_ds", "card")


def collect(run: Run, folder: Path) -> dict[str, Any]:
    """The result of a run whose stages are all done.

    Args:
        run: what was run.
        folder: ``$OUT``.

    Raises:
        ValueError, FileNotFoundError: what a stage wrote is no longer there or not readable.
    """
    setting = run.setting
    stages = {stage.name: stage for stage in run.stages}
    labels = json.loads((folder / LABELS).read_text(encoding="utf-8")) if "labels" in stages else []
    scores = _scores(folder / SCORES) if "finetune" in stages else None
    found = {
        "schema": SCHEMA,
        "budget": setting.budget,
        "corpus": run.corpus.name,
        "method": setting.name,
        "kind": setting.kind,
        "seed": setting.seed,
        "description": setting.method.description,
        "setting_hash": run.setting_hash,
        "overrides": setting.method.overrides,
        "commands": run.commands,
        "config": _compact(run.config),
        "finetune_config": _compact(run.finetune_config),
        "versions": versions(),
        "machine": machine(),
        "parameters": count_parameters(folder / (PRETRAINED if "pretrain" in stages else "untrained/untrained.nemo")),
        "pretraining": _pretraining(run, stages, folder),
        "labels": labels,
        "finetuning": _finetuning(run, folder) if "finetune" in stages else None,
        "scores": scores,
    }
    return _without_places(found, {str(run.corpus.folder): CORPUS, str(folder): OUT})


def write(result: dict[str, Any], path: Path) -> None:
    """Writes a result; a file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _dumps(result) + "\n")


def state(run: Run, folder: Path, path: Path) -> str:
    """``done``, ``other setting`` (the file is of another one), ``partial`` or ``to do``."""
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return "done" if found["setting_hash"] == run.setting_hash and found["schema"] == SCHEMA else "other setting"
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of an experiment ({error!r}); move it away") from error
    begun = any(log_file(folder, stage.name).is_file() for stage in run.stages)
    return "partial" if begun else "to do"


def stages_done(run: Run, folder: Path) -> int:
    """How many of a run's stages are finished."""
    return sum(is_done(folder, stage) for stage in run.stages)


def thin(points: list[tuple[int, float]], most: int = POINTS) -> list[list[float]]:
    """At most so many points of a curve, evenly drawn, always with the first and the last."""
    if len(points) > most:
        points = [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
    return [[step, _rounded(value)] for step, value in points]


def versions() -> dict[str, str | None]:
    """Of this package, what it stands on, and the commit; None where this is no git repository."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True)
    found = {"git": done.stdout.strip() or None, "python": platform.python_version()}
    return found | {name: version(name) for name in PACKAGES}


@cache
def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, GPU, memory in 10^9 bytes."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    gpu = None
    if torch.cuda.is_available():
        gpu = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    return {"cpu": names[0] if names else cpu, "cores": cores(), "gpu": gpu, "memory_gb": round(memory, 1)}


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_gpu(config: dict[str, Any]) -> bool:
    """Whether a resolved configuration trains on a GPU of this machine."""
    return torch.cuda.is_available() and config["trainer"].get("accelerator") != "cpu"


def count_parameters(nemo: Path) -> int:
    """Of the encoder, which is what all methods hand on."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    weights = read_weights(str(nemo))
    return sum(
        value.numel() for name, value in weights.items() if name.startswith("encoder.") and not name.endswith(buffers)
    )


def _pretraining(run: Run, stages: dict[str, Stage], folder: Path) -> dict[str, Any] | None:
    """Of several stages the sums, with the curves of the last; ``stages`` has each by itself."""
    names = [name for name in ("teacher", "clustering", "pretrain") if name in stages]
    if not names:
        return None
    parts = [_stage(stages[name], folder, on_gpu(run.config)) for name in names]
    if len(parts) == 1:
        return parts[0]
    summed = ("audio_hours_seen", "seconds", "processor_seconds")
    total = {"steps": sum(part["steps"] for part in parts)}
    total |= {key: _rounded(sum(part[key] or 0 for part in parts)) for key in summed}
    total["peak_memory_gb"] = max(part["peak_memory_gb"] for part in parts)
    return parts[-1] | total | {"stages": [{"name": name} | part for name, part in zip(names, parts, strict=True)]}


def _stage(stage: Stage, folder: Path, gpu: bool) -> dict[str, Any]:
    cost = _cost(folder, stage.name)
    if stage.name == "clustering":
        return {"steps": 0, "audio_hours_seen": 0.0, **cost, "curves": {}, "final": {}, "alarms": []}
    found = read_run(folder / stage.name)
    if gpu:
        cost["peak_memory_gb"] = _rounded(max(point.value for point in found.curves["train_memory_gb"]))
    last = {tag: _rounded(points[-1].value) for tag, points in found.curves.items() if tag.startswith("val_")}
    return {
        "steps": stage.steps,
        "audio_hours_seen": _rounded(found.audio_hours) if found.audio_hours else None,
        **cost,
        "curves": _curves(found.curves),
        "final": {tag: value for tag, value in last.items() if _is_kept(tag)},
        "alarms": found.alarms,
    }


def _finetuning(run: Run, folder: Path) -> dict[str, Any]:
    cost = _cost(folder, "finetune")
    if on_gpu(run.finetune_config):
        cost["peak_memory_gb"] = None  # what lies on the GPU is not logged
    curves = _curves(read_run(folder / "finetune").curves)
    hours = _rounded(run.corpus.labelled.hours)
    return {"steps": run.setting.finetune.steps, **cost, "labelled_hours": hours, "curves": curves}


def _cost(folder: Path, stage: str) -> dict[str, float]:
    account = read_account(folder, stage)
    return {key: _rounded(getattr(account, key)) for key in ("seconds", "processor_seconds", "peak_memory_gb")}


def _curves(curves: dict[str, list]) -> dict[str, list[list[float]]]:
    return {tag: thin([(p.step, p.value) for p in points]) for tag, points in sorted(curves.items()) if _is_kept(tag)}


def _is_kept(tag: str) -> bool:
    return tag.removeprefix("train_").removeprefix("val_").split("-")[0] in KEPT


def _scores(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {
        **{key: _rounded(found[key]) for key in ("wer", "cer")},
        **{key: found[key] and [_rounded(value) for value in found[key]] for key in ("wer_interval", "cer_interval")},
        "words": found["words"],
        "characters": found["characters"],
        "utterances": found["num_utterances"],
        "errors": [
            [
                Path(one["audio_filepath"]).stem + (f"@{one['offset']:g}" if one["offset"] else ""), one["speaker"],
                one["character_errors"], one["characters"], one["errors"], one["words"],
            ]
            for one in found["utterances"]
        ],
    }  # fmt: skip


def _compact(config: dict[str, Any] | None) -> dict[str, Any] | None:
    """Model and trainer; of the data only how batches are made."""
    if config is None:
        return None
    model = {key: value for key, value in config["model"].items() if key not in USELESS_IN_CONFIG}
    batches = ("batch_duration", "batch_size", "min_duration", "max_duration", "use_bucketing", "num_buckets", "shuffle")
    train = {key: config["model"]["train_ds"].get(key) for key in batches}
    rest = {key: config[key] for key in ("seed", "freeze_encoder", "fresh_layers") if key in config}
    return rest | {"model": model | {"train_ds": train}, "optim": model.get("optim"), "trainer": config["trainer"]}


def _without_places(value: Any, places: dict[str, str]) -> Any:
    """Folders of this machine, wherever a text has them, under the names that they have in the commands."""
    if isinstance(value, str):
        for place, name in places.items():
            value = value.replace(place, name)
        return value
    if isinstance(value, dict):
        return {key: _without_places(inner, places) for key, inner in value.items()}
    return [_without_places(inner, places) for inner in value] if isinstance(value, list) else value


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _dumps(result: dict[str, Any]) -> str:
    """A line for each point of a curve, row of labels and utterance would make the file unreadable: one for each list."""
    lines = []
    for key, value in result.items():
        if isinstance(value, dict) and value:
            inner = ",\n".join(f"  {json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{inner}\n }}")
        elif isinstance(value, list) and value:
            inner = ",\n".join(f"  {json.dumps(v, ensure_ascii=False)}" for v in value)
            lines.append(f" {json.dumps(key)}: [\n{inner}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n" + ",\n".join(lines) + "\n}"
