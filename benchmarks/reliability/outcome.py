"""The results of a run, as a flat table of values by which two runs are compared.

It leaves out values that differ between two uninterrupted runs: times, dates, speeds, and names that NeMo draws at random.
It replaces the folder of the experiment by a word, and joins the metrics of resumed runs with the last value of each step.
"""

import contextlib
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf

from nemo_birq.checkpoint.lightning_checkpoint import peek_checkpoint
from nemo_birq.report.events import read_events

FOLDER = "<experiment>"
MEASURED = re.compile("timing|hours_per_hour|mfu|per_sec|seconds|memory_gb")
RANDOM = [
    (re.compile(r"\d{4}-\d\d-\d\d"), "<date>"),
    (re.compile(r"[0-9a-f]{32}_"), "<random>_"),
    (re.compile(r"the devices reached\s+\d+ %"), "the devices reached <measured>"),  # in the model card
]
IGNORED = re.compile(
    r"model_config\.yaml:pretraining\.ended$"
    r"|\.ckpt:callbacks\..*\.last_model_path$"  # names another file after a checkpoint that a signal has caused
    r"|\.ckpt:callbacks\..*\.current_score$"  # of the last validation of this process
    r"|birq_checksums\.json"  # of the bytes of files whose contents are compared
    r"|(epoch_progress|val_loop\.batch_progress)\.total\."  # an interrupted epoch or validation counts twice
)


def read_outcome(folder: Path) -> dict[str, Any]:
    """Returns the values of everything that a run has written to the folder of its experiment, by file and position.

    A file that cannot be read has its error instead of its values.
    """
    found: dict[str, Any] = {}
    checkpoints = folder / "checkpoints"
    for path in sorted(checkpoints.rglob("*")):
        found[f"checkpoints/{path.relative_to(checkpoints)}"] = "present"
    readers = {"checkpoints/*.ckpt": peek_checkpoint, "checkpoints/*.nemo": _nemo, "checkpoints/*.md": Path.read_text}
    readers |= {"alarms.json": _json, "scores/*.json": _json}
    for pattern, reader in readers.items():
        for path in sorted(folder.glob(pattern)):
            name = str(path.relative_to(folder))
            try:
                found |= _flat(reader(path), name + ":")
            except Exception as error:
                found[name + ":"] = f"cannot be read: {type(error).__name__}: {str(error).splitlines()[:1]}"
    try:
        found |= _metrics(folder)
    except Exception as error:
        found["metrics:"] = f"cannot be read: {error}"
    kept = {name: value for name, value in found.items() if not IGNORED.search(name) and not MEASURED.search(name)}
    words = {name: _normalized(value, folder) for name, value in kept.items()}
    return {_normalized(name, folder): value for name, value in words.items()}


def differences(found: dict[str, Any], expected: dict[str, Any], values: bool = True) -> list[str]:
    """Returns a line for each entry that differs; without ``values``, only names and readability of files are compared."""
    if not values:
        found, expected = _structure(found), _structure(expected)
    lines = [f"missing: {name}" for name in expected if name not in found]
    lines += [f"left over: {name}" for name in found if name not in expected]
    for name, value in found.items():
        if name in expected and not _equal(value, expected[name]):
            lines.append(f"{name}: {_short(value)} instead of {_short(expected[name])}")
    return lines


def last_checkpoint_step(folder: Path) -> int:
    """Returns the optimizer step of the newest whole checkpoint of an experiment, 0 without one."""
    steps = [0]
    for path in (folder / "checkpoints").glob("*.ckpt"):
        if path.with_name(f"{path.stem}-unfinished").exists():
            continue
        with contextlib.suppress(Exception):  # partly written, or damaged
            steps.append(peek_checkpoint(path)["global_step"])
    return max(steps)


def _nemo(path: Path) -> dict[str, Any]:
    content = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            name = RANDOM[1][0].sub("", member.name.removeprefix("./"))
            file = archive.extractfile(member)
            if file is None:
                continue
            if name.endswith((".ckpt", ".pt")):
                content[name] = torch.load(file, map_location="cpu", weights_only=True)
            else:
                content[name] = yaml.safe_load(file) if name.endswith(".yaml") else file.read().decode()
    return {name + ":": value for name, value in content.items()}


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _metrics(folder: Path) -> dict[str, float]:
    """Returns each logged number by name and step; later files replace earlier ones."""
    joined = {}
    for file in read_events(folder):
        for tag, points in file.items():
            joined |= {f"metrics:{tag} at {point.step}": point.value for point in points}
    return joined


def _flat(value: Any, name: str) -> dict[str, Any]:
    """Returns the leaves of nested values by their position."""
    if isinstance(value, DictConfig | ListConfig):
        value = OmegaConf.to_container(value)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if items is None:
        return {name: value}
    inside = name if name.endswith(":") else name + "."
    return {key: leaf for at, inner in items for key, leaf in _flat(inner, f"{inside}{at}").items()} or {name: value}


def _normalized(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    value = value.replace(str(folder), FOLDER).replace(str(folder.parent), FOLDER)
    for pattern, word in RANDOM:
        value = pattern.sub(word, value)
    return value


def _structure(outcome: dict[str, Any]) -> dict[str, Any]:
    """Returns the names of the files, without the values in names of checkpoints, and which could not be read."""
    found = {}
    for name, value in outcome.items():
        if name.startswith(("checkpoints/", "scores/")) and ("cannot be read" in str(value) or value == "present"):
            found[re.sub(r"--val_\w+=[\d.]+", "", name)] = value
    return found


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and bool((one == other).all() or _same_nan(one, other))
    return type(one) is type(other) and (one == other or (one != one and other != other))


def _same_nan(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _short(value: Any) -> str:
    text = f"tensor of {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
    return text if len(text) < 80 else text[:77] + "..."
