"""Result of a run: one json file collected from the output of its commands."""

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
from experiments.execution import is_done, log_file, read_cost
from experiments.stages import LABELS, PRETRAINED, SCORES, UNTRAINED, RunPlan, Stage
from nemo_birq.checkpoint.nemo_archive import read_weights
from nemo_birq.monitoring.metrics import METRICS
from nemo_birq.report.experiment_folder import read_run
from nemo_birq.utils.files import write_text
from nemo_birq.utils.memory import total_memory_bytes

SCHEMA = 1
MAX_POINTS = 40
PACKAGES = ("nemo_birq", "torch", "nemo_toolkit", "lightning", "lhotse")
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
UNUSED_METRICS = {
    "anchor_coverage", "enhanced_coverage", "anchor_top1", "enhanced_top1", "silent_share", "skipped_utterances",
    "skipped_share", "epoch",
}  # fmt: skip
"""Metrics of pretraining that the results do without."""
KEPT = METRICS.keys() - UNUSED_METRICS | {"wer", "training_batch_wer"}
LEFT_OUT = ("train_ds", "validation_ds", "test_ds", "card")  # of the configuration of the model
BATCH_KEYS = ("batch_duration", "batch_size", "min_duration", "max_duration", "use_bucketing", "num_buckets", "shuffle")


QUALITY = ("pnmi", "pnmi_by_chance", "phone_purity", "cluster_purity", "codes_used")
"""Measures of labels in the results."""


def collect(run: RunPlan, folder: Path) -> dict[str, Any]:
    """Collects the result of a run whose stages are all done.

    Args:
        run: the run.
        folder: ``$OUT``.

    Raises:
        ValueError, FileNotFoundError: the output of a stage is missing or damaged.
    """
    setting = run.setting
    stages = {stage.name: stage for stage in run.stages}
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
        "parameters": count_parameters(folder / (PRETRAINED if "pretrain" in stages else UNTRAINED)),
        "pretraining": _pretraining(run, stages, folder),
        "labels": _labels(folder / LABELS) if "labels" in stages else [],
        "finetuning": _finetuning(run, folder) if "finetune" in stages else None,
        "scores": _scores(folder / SCORES) if "finetune" in stages else None,
    }
    return _without_places(found, {str(run.corpus.folder): CORPUS, str(folder): OUT})


def _labels(path: Path) -> list[dict[str, Any]]:
    """Returns the quality of the labels by step, of the nearest codes those of layer k only.

    Raises:
        ValueError: the file is of another version.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} is of an earlier version: delete it, and run the experiment again, which writes it")
    rows = []
    for evaluation in found["evaluations"]:
        for row in evaluation["rows"]:
            kind, layer = row["labels"], row["layer"]
            if kind == "layer" and layer != evaluation["layer"]:
                continue
            name = "relabelled" if kind == "anchor" and evaluation["relabelled"] else {"layer": "nearest"}.get(kind, kind)
            keys = (*QUALITY, "entropy") if kind in ("anchor", "enhanced") else QUALITY
            about = {"step": evaluation["step"], "labels": name} | ({"layer": layer} if layer else {})
            rows.append(about | {key: _rounded_to_five(row[key]) for key in keys})
    return rows


def _rounded_to_five(value: float) -> float:
    return round(value, 5) if isinstance(value, float) else value


def write(result: dict[str, Any], path: Path) -> None:
    """Writes a result with one line for each key, entry of a dictionary and row of a list."""
    parts = ",\n".join(f" {json.dumps(key)}: {_lines(value)}" for key, value in result.items())
    write_text(path, f"{{\n{parts}\n}}\n")


def _lines(value: Any) -> str:
    def line(inner: Any) -> str:
        return json.dumps(inner, ensure_ascii=False)

    if isinstance(value, dict) and value:
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {line(inner)}" for key, inner in value.items()) + "\n }"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(f"  {line(inner)}" for inner in value) + "\n ]"
    return line(value)


def state(run: RunPlan, folder: Path, path: Path) -> str:
    """Returns ``done``, ``other setting`` (the result is of another one), ``partial`` or ``to do``.

    Args:
        run: the run.
        folder: ``$OUT``.
        path: file of the result.

    Raises:
        ValueError: the file is not a result.
    """
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return "done" if found["setting_hash"] == run.setting_hash and found["schema"] == SCHEMA else "other setting"
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no result of an experiment ({error!r}); move it away") from error
    begun = any(log_file(folder, stage.name).is_file() for stage in run.stages)
    return "partial" if begun else "to do"


def stages_done(run: RunPlan, folder: Path) -> int:
    """Counts the finished stages of a run."""
    return sum(is_done(folder, stage) for stage in run.stages)


def thin(points: list[tuple[int, float]], max_points: int = MAX_POINTS) -> list[list[float]]:
    """Returns at most ``max_points`` evenly spaced points of a curve, always with the first and the last."""
    if len(points) > max_points:
        points = [points[round(i * (len(points) - 1) / (max_points - 1))] for i in range(max_points)]
    return [[step, _rounded(value)] for step, value in points]


def versions() -> dict[str, str | None]:
    """Returns the commit (None outside a git repository) and the versions of Python and of the main packages."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    done = subprocess.run(git, capture_output=True, text=True)
    found = {"git": done.stdout.strip() or None, "python": platform.python_version()}
    return found | {name: version(name) for name in PACKAGES}


@cache
def machine() -> dict[str, Any]:
    """Returns processor, cores that this process may use, GPUs, and memory in 10^9 bytes."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": cores(), "gpu": gpu, "memory_gb": round(total_memory_bytes() / 1e9, 1)}


def cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_gpu(config: dict[str, Any]) -> bool:
    """Returns True if a resolved configuration trains on a GPU of this machine."""
    return torch.cuda.is_available() and config["trainer"].get("accelerator") != "cpu"


def count_parameters(nemo: Path) -> int:
    """Counts the parameters of the encoder, which is the part that fine-tuning takes over."""
    return sum(
        value.numel()
        for name, value in read_weights(str(nemo)).items()
        if name.startswith("encoder.") and not name.endswith(BUFFERS)
    )


def _pretraining(run: RunPlan, stages: dict[str, Stage], folder: Path) -> dict[str, Any] | None:
    """Returns the record of pretraining; of several stages the sums, the curves of the last one, and each by itself."""
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


def _finetuning(run: RunPlan, folder: Path) -> dict[str, Any]:
    cost = _cost(folder, "finetune")
    if on_gpu(run.finetune_config):
        cost["peak_memory_gb"] = None  # the memory of the GPU is not logged
    curves = _curves(read_run(folder / "finetune").curves)
    hours = _rounded(run.corpus.labelled.hours)
    return {"steps": run.setting.finetune.steps, **cost, "labelled_hours": hours, "curves": curves}


def _cost(folder: Path, stage: str) -> dict[str, float]:
    cost = read_cost(folder, stage)
    return {key: _rounded(getattr(cost, key)) for key in ("seconds", "processor_seconds", "peak_memory_gb")}


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
    """Returns model and trainer, without data except the settings of batches."""
    if config is None:
        return None
    model = {key: value for key, value in config["model"].items() if key not in LEFT_OUT}
    train = {key: config["model"]["train_ds"].get(key) for key in BATCH_KEYS}
    rest = {key: config[key] for key in ("seed", "freeze_encoder", "fresh_layers") if key in config}
    return rest | {"model": model | {"train_ds": train}, "optim": model.get("optim"), "trainer": config["trainer"]}


def _without_places(value: Any, places: dict[str, str]) -> Any:
    """Replaces folders of this machine, wherever a text has them, by their placeholders in the commands."""
    text = json.dumps(value)
    for place, name in places.items():
        text = text.replace(json.dumps(place)[1:-1], name)  # as it is escaped in the text
    return json.loads(text)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
