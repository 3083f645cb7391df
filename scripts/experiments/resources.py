"""Estimates of the memory, disk space and hours that runs need, and comparison with this machine, before any work.

Memory follows a formula: 16 bytes a parameter (weight, gradient, two averages of AdamW), and activations for each second of
audio in a batch. The two constants of the activations are those of the two models in docs/results/step_*_cpu_32.json (BiRQ,
peak without libraries and parameters, float32). Hours follow from a few timed steps of the configured model on noise, as if
the machine had nothing else to do.
"""

import copy
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nemo.utils import logging
from omegaconf import OmegaConf

from experiments.budgets import Budget
from experiments.results import cores, machine, on_gpu
from experiments.stages import RunPlan
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.model import BiRQModel
from nemo_birq.utils.files import write_json
from nemo_birq.utils.memory import total_memory_bytes

BYTES_PER_PARAMETER = 16
ACTIVATION_BYTES = 5.0e6  # for a second of audio, independent of the model
ACTIVATION_BYTES_PER_WIDTH = 6.5e3  # for a second of audio, a layer and a unit of the encoder's width
HALF_PRECISION_SHARE = 0.6  # of the activations with 16 bits
PROCESS_BYTES = 1.2e9  # NeMo imported, indexes, tables
CHECKPOINT_BYTES_PER_PARAMETER = 12
MAX_PROBE_SECONDS = 10.0  # seconds of audio in a timed step
TIMED_STEPS = 2
START_SECONDS = 20.0  # of each command, most of it imports
LABEL_SECONDS = 10.0  # label quality of one checkpoint
STEP_OVERHEAD = 1.15  # validation, data and logging
THREADS_EXPONENT = 0.7  # n threads count as n ** 0.7; one is timed, since several may wait for each other on a busy machine


@dataclass(frozen=True)
class Estimate:
    """Needs of a sweep."""

    parameters: int
    step_seconds: float
    """Seconds of a pretraining step, with the threads that a run gets; nan if no step fits this machine."""
    hours: float
    """Hours on this machine with the given jobs, if it has nothing else to do."""
    memory_gb: float
    """10^9 bytes of one run: on the GPU, else of the process."""
    disk_gb: float
    """10^9 bytes of the checkpoints of the runs that are in progress at one time."""


def estimate(runs: list[RunPlan], jobs: int, cache: Path | None = None) -> Estimate:
    """Estimates the needs of runs with one encoder. The timing takes some seconds.

    Args:
        runs: at least one.
        jobs: number of runs at a time.
        cache: json file that keeps the timing for the same model and machine; None: time again.
    """
    config = runs[0].config
    batch = batch_seconds(config["model"]["train_ds"])
    parameters, step = _cached_measure(config, batch, cache)
    if not on_gpu(config):
        step /= max(1, cores() // jobs) ** THREADS_EXPONENT
    checkpoints = runs[0].setting.pretrain.checkpoints + 3  # the last one is kept twice, and fine-tuning has one
    return Estimate(
        parameters=parameters,
        step_seconds=step,
        hours=sum(run_seconds(run, step) for run in runs) / min(jobs, len(runs)) / 3600,
        memory_gb=memory_bytes(parameters, config, batch) / 1e9,
        disk_gb=jobs * checkpoints * CHECKPOINT_BYTES_PER_PARAMETER * parameters / 1e9,
    )


def _cached_measure(config: dict[str, Any], seconds: float, cache: Path | None) -> tuple[int, float]:
    model = config["model"]
    made = [model["encoder"], model["birq"], seconds, config["trainer"].get("precision"), machine()]
    key = json.dumps(made, sort_keys=True)
    kept = json.loads(cache.read_text(encoding="utf-8")) if cache is not None and cache.is_file() else {}
    if kept.get("key") == key:
        return kept["parameters"], kept["step_seconds"]
    parameters, step = measure(config, seconds)
    if cache is not None:
        write_json(cache, {"key": key, "parameters": parameters, "step_seconds": step})
    return parameters, step


def run_seconds(run: RunPlan, step_seconds: float) -> float:
    """Estimates the seconds of a run; a second of audio costs as much in fine-tuning as in pretraining."""
    seconds = 0.0
    for stage in run.stages:
        seconds += START_SECONDS + STEP_OVERHEAD * stage.steps * step_seconds * _step_share(run, stage.name)
        if stage.name == "labels":
            seconds += LABEL_SECONDS * (run.setting.pretrain.checkpoints if run.setting.method.pretraining else 1)
    return seconds


def _step_share(run: RunPlan, stage: str) -> float:
    """Returns the audio of a step, as a multiple of that of a pretraining step."""
    if stage != "finetune":
        return 1.0
    return batch_seconds(run.finetune_config["model"]["train_ds"]) / batch_seconds(run.config["model"]["train_ds"])


def memory_bytes(parameters: int, config: dict[str, Any], seconds: float) -> float:
    """Estimates the memory of a training process: parameters with their optimizer, and activations of a batch.

    Args:
        parameters: number of them.
        config: resolved configuration of a run.
        seconds: audio of a batch.
    """
    return PROCESS_BYTES + BYTES_PER_PARAMETER * parameters + activation_bytes(config) * seconds


def activation_bytes(config: dict[str, Any]) -> float:
    """Estimates the activations for a second of audio."""
    encoder = config["model"]["encoder"]
    share = HALF_PRECISION_SHARE if "16" in str(config["trainer"].get("precision")) else 1.0
    return share * (ACTIVATION_BYTES + ACTIVATION_BYTES_PER_WIDTH * encoder["n_layers"] * encoder["d_model"])


def batch_seconds(train_ds: dict[str, Any]) -> float:
    """Returns the seconds of audio in a batch of a ``train_ds`` node."""
    if train_ds.get("batch_duration"):
        return float(train_ds["batch_duration"])
    return float(train_ds.get("batch_size") or 1) * min(15.0, float(train_ds.get("max_duration") or 15.0))


def measure(config: dict[str, Any], seconds: float) -> tuple[int, float]:
    """Counts the parameters of a model, and times training steps on noise, on one thread or the GPU.

    Args:
        config: resolved configuration of a run.
        seconds: audio of a batch; ``MAX_PROBE_SECONDS`` of it are timed, and the rest is taken to cost as much.

    Returns:
        number of parameters, and seconds of a step; nan if no step fits the memory.
    """
    node = copy.deepcopy(config["model"])
    node |= {"train_ds": None, "validation_ds": None, "optim": None}
    node["birq"].pop("relabelling", None)  # its teacher does not exist yet
    device = device_of(config)
    threads = torch.get_num_threads()
    with logging.temp_verbosity(logging.ERROR), torch.random.fork_rng():
        model = BiRQModel(OmegaConf.create(node)).to(device).train()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        probe = min(seconds, MAX_PROBE_SECONDS)
        if memory_bytes(parameters, config, probe) > free_memory_bytes(device):
            return parameters, float("nan")
        torch.set_num_threads(1)
        try:
            return parameters, _time_step(model, probe, device, str(config["trainer"].get("precision"))) * seconds / probe
        finally:
            torch.set_num_threads(threads)


def _time_step(model: BiRQModel, seconds: float, device: torch.device, precision: str) -> float:
    count = max(1, round(seconds / 5))
    samples = int(seconds / count * model.cfg.sample_rate)
    signal, lengths = 0.1 * torch.randn(count, samples), torch.full((count,), samples)
    names = [f"noise-{number}" for number in range(count)]
    batch = SpeechBatch(signal.to(device), lengths.to(device), names, num_samples=lengths.tolist())
    optimizer = torch.optim.AdamW(model.parameters())
    now = time.monotonic if device.type == "cuda" else time.process_time  # processor time excludes other programs
    times = []
    for step in range(TIMED_STEPS + 1):  # the first one warms up
        began = now()
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in precision):
            generator = torch.Generator().manual_seed(step)
            loss = model.losses(batch, model.schedule.full, generator, observe_labels=False, over_ranks=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(now() - began)
    return min(times[1:])


def device_of(config: dict[str, Any]) -> torch.device:
    """Returns the device that a resolved configuration trains on."""
    return torch.device("cuda" if on_gpu(config) else "cpu")


def free_memory_bytes(device: torch.device) -> float:
    """Returns the memory of a GPU, or the available memory of this machine (without /proc: all of it)."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    info = Path("/proc/meminfo")
    if info.is_file():
        found = dict(line.split(":") for line in info.read_text().splitlines())
        return 1024.0 * int(found["MemAvailable"].split()[0])
    return float(total_memory_bytes())


def find_problems(budget: Budget, needs: Estimate, runs: list[RunPlan], jobs: int, folder: Path) -> list[str]:
    """Lists the needs that exceed this machine, each with a change that would fit.

    Args:
        budget: its ``max_hours`` is the limit of time.
        needs: estimate for ``runs``.
        runs: the runs that are still to do.
        jobs: number of runs at a time.
        folder: existing folder of the checkpoints.
    """
    problems = []
    device, config = device_of(runs[0].config), runs[0].config
    free, each = free_memory_bytes(device) / 1e9, needs.memory_gb
    if each * jobs > free:
        changes = [f"--jobs {int(free / each)}"] if free >= each else []
        seconds = (free * 1e9 / jobs - memory_bytes(needs.parameters, config, 0.0)) / activation_bytes(config)
        if seconds >= 1:
            changes.append(f"batches of {int(seconds)} s in place of {batch_seconds(config['model']['train_ds']):g} "
                           "(model.train_ds.batch_duration in pretrain.overrides)")  # fmt: skip
        would = f"{' or '.join(changes)} would fit" if changes else "the model is too large"
        problems.append(
            f"{jobs} x {each:.1f} GB of memory on the {device.type} are needed, and {free:.1f} GB are free; {would}"
        )
    disk = shutil.disk_usage(folder).free / 1e9
    if needs.disk_gb > disk:
        problems.append(
            f"checkpoints take about {needs.disk_gb:.1f} GB, and {disk:.1f} GB are free at {folder}; give another --out, "
            "fewer --jobs, or fewer pretrain.checkpoints"
        )
    if needs.hours > budget.max_hours:
        number = int(len(runs) * budget.max_hours / needs.hours)
        would = f"{number} of them would fit: choose with --only and --seeds" if number else "not one of them would fit"
        problems.append(f"{len(runs)} runs take about {needs.hours:.1f} h with {jobs} at a time, and max_hours is "
                        f"{budget.max_hours:g}; {would}")  # fmt: skip
    return problems
