"""Whether a budget fits the machine: device, memory, disk, hours; estimated before any work, and said in words.

Memory is a formula: 16 bytes a parameter (weight, gradient, two of AdamW), and activations for each second of audio in a
batch. The latter's two constants are those of the two models in docs/results/step_*_cpu_32.json (BiRQ, peak less libraries
and parameters, float32). Hours follow from a few steps of the configured model on noise, as if the machine
had nothing else to do.
"""

import copy
import json
import os
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
from experiments.stages import Run
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.model import BiRQModel

BYTES_PER_PARAMETER = 16
ACTIVATION_BYTES = 5.0e6  # a second of audio, whatever the model
ACTIVATION_BYTES_PER_WIDTH = 6.5e3  # a second, layer and unit of the encoder's width
HALF = 0.6  # of that under 16 bits
PROCESS_BYTES = 1.2e9  # NeMo imported, indexes, tables
CHECKPOINT_BYTES_PER_PARAMETER = 12
PROBE_SECONDS = 10.0  # of audio, at most, that steps are timed on
STEPS = 2
START_SECONDS = 20.0  # of each command, most of it imports
LOOK_SECONDS = 10.0  # at one checkpoint's labels
EXTRA = 1.15  # of a step, for validation, data and logging
SPEED_UP = 0.7  # n threads are taken to be n ** SPEED_UP times as fast as the one that is timed; others than one may wait
# for each other on a busy machine, and would be timed as slow as that


@dataclass(frozen=True)
class Estimate:
    """What a sweep needs."""

    parameters: int
    step_seconds: float
    """Of pretraining, with the threads that a run gets; nan where no step fits this machine."""
    hours: float
    """On this machine, if it has nothing else to do, with the jobs given."""
    memory_gb: float
    """10^9 bytes of one run: on the GPU, else of the process."""
    disk_gb: float
    """Checkpoints of the runs that are under way at one time."""


def estimate(runs: list[Run], jobs: int, cache: Path) -> Estimate:
    """Needs of runs with one encoder. Timing takes some seconds; it is kept for the same model and machine.

    Args:
        runs: at least one.
        jobs: at a time.
        cache: json file that timings are kept in.
    """
    config = runs[0].config
    batch = batch_seconds(config["model"]["train_ds"])
    made = [config["model"]["encoder"], config["model"]["birq"], batch, config["trainer"].get("precision"), machine()]
    key = json.dumps(made, sort_keys=True)
    kept = json.loads(cache.read_text(encoding="utf-8")) if cache.is_file() else {}
    if kept.get("key") != key:
        parameters, seconds = measure(config, batch)
        kept = {"key": key, "parameters": parameters, "step_seconds": seconds}
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_text(json.dumps(kept), encoding="utf-8")
    parameters, step = kept["parameters"], kept["step_seconds"]
    if not on_gpu(config):
        step /= max(1, cores() // jobs) ** SPEED_UP
    checkpoints = runs[0].setting.pretrain.checkpoints + 3  # that of the end twice, and fine-tuning
    return Estimate(
        parameters=parameters,
        step_seconds=step,
        hours=sum(run_seconds(run, step) for run in runs) / min(jobs, len(runs)) / 3600,
        memory_gb=memory_bytes(parameters, config, batch) / 1e9,
        disk_gb=jobs * checkpoints * CHECKPOINT_BYTES_PER_PARAMETER * parameters / 1e9,
    )


def run_seconds(run: Run, step_seconds: float) -> float:
    """How long a run takes; a second of audio costs as much in fine-tuning as in pretraining."""
    seconds = 0.0
    for stage in run.stages:
        seconds += START_SECONDS
        if stage.name == "labels":
            looks = run.setting.pretrain.checkpoints if run.setting.method.pretraining else 1
            seconds += looks * LOOK_SECONDS
        share = 1.0
        if stage.name == "finetune":
            batches = (config["model"]["train_ds"] for config in (run.finetune_config, run.config))
            finetune, pretrain = map(batch_seconds, batches)
            share = finetune / pretrain
        seconds += EXTRA * stage.steps * step_seconds * share
    return seconds


def memory_bytes(parameters: int, config: dict[str, Any], seconds: float) -> float:
    """Of a training process: parameters with their optimizer, and activations of a batch of so many seconds of audio."""
    return PROCESS_BYTES + BYTES_PER_PARAMETER * parameters + activation_bytes(config) * seconds


def activation_bytes(config: dict[str, Any]) -> float:
    """A second of audio."""
    encoder = config["model"]["encoder"]
    half = HALF if "16" in str(config["trainer"].get("precision")) else 1.0
    return half * (ACTIVATION_BYTES + ACTIVATION_BYTES_PER_WIDTH * encoder["n_layers"] * encoder["d_model"])


def batch_seconds(train_ds: dict[str, Any]) -> float:
    """Of audio, in a batch of a ``train_ds`` node."""
    if train_ds.get("batch_duration"):
        return float(train_ds["batch_duration"])
    return float(train_ds.get("batch_size") or 1) * min(15.0, float(train_ds.get("max_duration") or 15.0))


def measure(config: dict[str, Any], seconds: float) -> tuple[int, float]:
    """Parameters of a model, and seconds of a training step on noise, on one thread or the GPU; nan where none fits.

    Args:
        config: of a run.
        seconds: of audio a batch; at most ``PROBE_SECONDS`` are timed, and the rest is taken to cost as much.
    """
    node = copy.deepcopy(config["model"])
    node |= {"train_ds": None, "validation_ds": None, "optim": None}
    node["birq"].pop("relabelling", None)  # its teacher is not there yet
    device = torch.device("cuda" if on_gpu(config) else "cpu")
    before = torch.get_num_threads()
    with logging.temp_verbosity(logging.ERROR), torch.random.fork_rng():
        model = BiRQModel(OmegaConf.create(node)).to(device).train()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        probe = min(seconds, PROBE_SECONDS)
        if memory_bytes(parameters, config, probe) > room_bytes(device):
            return parameters, float("nan")
        torch.set_num_threads(1)
        try:
            return parameters, _time_steps(model, probe, device, str(config["trainer"].get("precision"))) * seconds / probe
        finally:
            torch.set_num_threads(before)


def _time_steps(model: BiRQModel, seconds: float, device: torch.device, precision: str) -> float:
    count = max(1, round(seconds / 5))
    samples = int(seconds / count * model.cfg.sample_rate)
    signal, lengths = 0.1 * torch.randn(count, samples), torch.full((count,), samples)
    names = [f"noise-{number}" for number in range(count)]
    batch = SpeechBatch(signal.to(device), lengths.to(device), names, num_samples=lengths.tolist())
    optimizer = torch.optim.AdamW(model.parameters())
    # Of the processor, so that other programs do not count.
    now = time.monotonic if device.type == "cuda" else time.process_time
    taken = []
    for step in range(STEPS + 1):  # the first one warms up
        began = now()
        with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in precision):
            generator = torch.Generator().manual_seed(step)
            loss = model.losses(batch, model.schedule.full, generator, observe_labels=False, over_ranks=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(now() - began)
    return min(taken[1:])


def room_bytes(device: torch.device) -> float:
    """Memory of the device: of the GPU, else what of the machine's is available."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    info = Path("/proc/meminfo")
    if info.is_file():
        found = dict(line.split(":") for line in info.read_text().splitlines())
        return 1024.0 * int(found["MemAvailable"].split()[0])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def lacks_gpus(budget: Budget) -> bool:
    """Whether the machine has fewer than the budget is made for."""
    return torch.cuda.device_count() < budget.gpus


def misfits(budget: Budget, needs: Estimate, runs: list[Run], jobs: int, folder: Path) -> list[str]:
    """What does not fit, each with what would; empty where all does.

    Args:
        budget: whose limits are looked at.
        needs: of ``runs``.
        runs: those that are still to do.
        jobs: at a time.
        folder: where the checkpoints go; it exists.
    """
    found = []
    device = torch.device("cuda" if on_gpu(runs[0].config) else "cpu")
    room, each = room_bytes(device) / 1e9, needs.memory_gb
    if each * jobs > room:
        fewer = int(room / each)
        config = runs[0].config
        fixed = memory_bytes(needs.parameters, config, 0.0)
        most = (room * 1e9 / jobs - fixed) / activation_bytes(config)
        fits = [f"--jobs {fewer}"] if fewer else []
        if most >= 1:
            fits.append(f"batches of {int(most)} s in place of {batch_seconds(config['model']['train_ds']):g} "
                        "(model.train_ds.batch_duration in pretrain.overrides)")  # fmt: skip
        would = f"{' or '.join(fits)} would fit" if fits else "the model is too large"
        found.append(
            f"{jobs} x {each:.1f} GB of memory on the {device.type} are needed, and {room:.1f} GB are free; {would}"
        )
    disk = shutil.disk_usage(folder).free / 1e9
    if needs.disk_gb > disk:
        found.append(
            f"checkpoints take about {needs.disk_gb:.1f} GB, and {disk:.1f} GB are free at {folder}; give another --out, "
            "fewer --jobs, or fewer pretrain.checkpoints"
        )
    if needs.hours > budget.max_hours:
        number = int(len(runs) * budget.max_hours / needs.hours)
        would = f"{number} of them would fit: choose with --only and --seeds" if number else "not one of them would fit"
        found.append(f"{len(runs)} runs take about {needs.hours:.1f} h with {jobs} at a time, and max_hours is "
                     f"{budget.max_hours:g}; {would}")  # fmt: skip
    return found
