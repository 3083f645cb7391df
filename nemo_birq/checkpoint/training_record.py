"""Record of a training run: data, steps, settings, health of the labels, and versions.

It is stored as plain values under ``pretraining`` in the configuration of the ``.nemo``, where it survives saving by other
classes. The model card is written from it. It holds no paths of the training machine.
"""

import math
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from nemo_birq.data.dataloader import SpeechLoader
from nemo_birq.data.sources import read_sources
from nemo_birq.monitoring.callback import HealthMonitor
from nemo_birq.monitoring.metrics import RECORDED

PACKAGES = ("nemo_birq", "nemo_toolkit", "torch", "lightning", "lhotse")


def record_training(model: LightningModule, trainer: Trainer, monitor: HealthMonitor) -> dict[str, Any]:
    """Returns the record of a ``BiRQModel``, from its ``trainer`` and ``monitor``.

    Returns:
        ``steps``, ``epochs`` (None for a stream), ``ended`` (day), ``ranks``, ``precision``, ``data`` (``training``,
        ``validation`` and, with mixing, ``noise``; see ``describe_data``), ``settings`` (``birq``, ``optim``, ``batch``),
        ``health`` (last logged numbers of training and validation), ``status`` and ``alarms`` (as in alarms.json),
        ``versions``, and for continued pretraining ``continued_from`` (see ``pretrained.initialization``).
    """
    cfg, alarms = model.cfg, monitor.alarms
    loaders = {
        "training": (cfg.get("train_ds"), model._train_dl),
        "validation": (cfg.get("validation_ds"), model._validation_dl),
    }
    data = {stage: describe_data(node, loader) for stage, (node, loader) in loaders.items()}
    if noise := (cfg.get("train_ds") or {}).get("noise_manifest"):
        data["noise"] = describe_data(OmegaConf.create({"manifest_filepath": noise, "tarred_audio_filepaths": None}), None)
    settings = {"birq": OmegaConf.to_container(cfg.birq, resolve=True), "optim": _plain(cfg.get("optim"))}
    settings["batch"] = {key: (cfg.get("train_ds") or {}).get(key) for key in ("batch_duration", "batch_size")}
    settings["batch"]["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    source = _plain(cfg.get("pretraining")).get("continued_from")
    return {
        "steps": trainer.global_step,
        "epochs": _epochs(model._train_dl),
        "ended": date.today().isoformat(),
        "ranks": trainer.world_size,
        "precision": str(trainer.precision),
        "data": data,
        "settings": settings,
        "health": {stage: _recorded(logged) for stage, logged in monitor.logged.items()},
        "status": alarms.verdict,
        "alarms": [{key: getattr(alarm, key) for key in ("name", "step", "value", "threshold")} for alarm in alarms.raised],
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
    } | ({} if source is None else {"continued_from": source})


def describe_data(node: DictConfig | None, loader: Any) -> list[dict[str, Any]]:
    """Describes the datasets of a ``train_ds`` or ``validation_ds`` node: ``name``, ``weight``, ``utterances`` and
    ``hours``.

    The last two count utterances between ``min_duration`` and ``max_duration``, and are None for a stream.
    """
    if not node or not (node.get("manifest_filepath") or node.get("input_cfg")):
        return []
    sources = read_sources(node)
    sizes = [(None, None)] * len(sources)
    if isinstance(loader, SpeechLoader):
        low, high = loader.sampler.settings.min_duration, loader.sampler.settings.max_duration
        used = [d[(d >= low) & (d <= high)] for d in (index.durations for index in loader.sampler.indexes)]
        sizes = [(len(durations), float(durations.sum()) / 3600) for durations in used]
    return [
        {"name": data_name(source.manifest), "weight": source.weight, "utterances": utterances, "hours": hours}
        for source, (utterances, hours) in zip(sources, sizes, strict=True)
    ]


def data_name(manifest: str) -> str:
    """Returns the file of a manifest with its folder, or the folder of its ``sharded_manifests``: ``train/manifest_0.json``.

    The name does not identify an account: it has no home folder, and no user, password or query of a URL.
    """
    parts = [part for part in PurePosixPath(manifest.partition("?")[0]).parts if part not in ("/", "sharded_manifests")]
    if parts[:-1] == list(Path.home().parts[1:]):
        parts = parts[-1:]
    if "://" in manifest:
        parts = [part.rpartition("@")[2] for part in parts]
    return "/".join(parts[-2:])


def _epochs(loader: Any) -> float | None:
    if not isinstance(loader, SpeechLoader):
        return None
    order = loader.sampler
    return order.epoch + order.batch / max(1, len(order.plan(order.epoch, order.planned_for)))


def _recorded(logged: dict[str, float]) -> dict[str, float]:
    return {name: logged[name] for name in RECORDED if math.isfinite(logged.get(name, math.nan))}


def _plain(node: DictConfig | None) -> dict[str, Any]:
    return {} if node is None else OmegaConf.to_container(node, resolve=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # the package is a checkout on PYTHONPATH
        return "not installed"
