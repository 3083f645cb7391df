"""Collection of the logged numbers: lines in the terminal, and the same values in the logger."""

import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MaxMetric, Metric, SumMetric

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.modules.masking import valid_frames
from nemo_birq.monitoring.gradient_health import GradientProducts
from nemo_birq.monitoring.label_health import LabelHealth
from nemo_birq.monitoring.step_flops import StepWork
from nemo_birq.utils.distributed import sum_over_ranks

SILENCE = 1e-4  # range of samples in [-1, 1] below which a signal is constant: three steps of 16 bits
EVERY = 16  # distance of the tested samples: a signal that is constant at these samples is not speech


def is_silent(signal: Tensor, lengths: Tensor) -> Tensor:
    """Finds utterances that are silent or constant: (B, samples) and (B,) lengths -> (B,) bool."""
    some = signal[:, ::EVERY]
    inside = torch.where(valid_frames(lengths.div(EVERY, rounding_mode="floor"), some.shape[1]), some, some[:, :1])
    low, high = torch.aminmax(inside, dim=1)
    return high - low < SILENCE


def num_read(batch: SpeechBatch) -> int:
    """Returns the number of utterances of a batch that could be read."""
    return 0 if batch.is_silent_stand_in else len(batch.signal_length)


def peak_memory_gb(device: torch.device) -> float:
    """Returns the peak memory so far in 10^9 bytes: that of PyTorch's allocator on a GPU, otherwise that of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class TrainingLog(nn.Module):
    """Collects label health, gradients and throughput between two logged steps, without waiting for the device."""

    def __init__(self, num_codes: int, num_books: int, sample_rate: int):
        super().__init__()
        self.health = LabelHealth(num_codes, num_books)
        self.sample_rate = sample_rate
        # torchmetrics' check for NaN would wait for the device.
        self.audio_seconds = SumMetric(nan_strategy="disable")
        self.read = SumMetric(nan_strategy="disable")
        self.silent = SumMetric(nan_strategy="disable")
        self.utterances = SumMetric(nan_strategy="disable")
        self.skipped = SumMetric(nan_strategy="disable")
        self.flops = SumMetric(nan_strategy="disable")
        self.frames = SumMetric(nan_strategy="disable")
        self.padded_frames = SumMetric(nan_strategy="disable")
        self.memory = MaxMetric(nan_strategy="disable")
        self.ceiling: float | None = None
        """FLOP/s of a matrix product on the device of this rank; None until training measures it."""
        self.gradients: GradientProducts | None = None
        self.since = time.monotonic()
        self._seconds_before = 0.0  # time since the last logged step in the interrupted part of the run

    def count(self, batch: SpeechBatch) -> None:
        """Adds a batch; if its utterances could not be read, only their number."""
        read = num_read(batch)
        self.audio_seconds.update(batch.signal_length[:read].sum() / self.sample_rate)
        self.silent.update(is_silent(batch.signal, batch.signal_length)[:read].sum())
        self._add(read=read, utterances=read + batch.skipped, skipped=batch.skipped)

    def count_work(self, work: StepWork) -> None:
        """Adds the operations of a batch."""
        self._add(**work._asdict())

    def _add(self, **numbers: float) -> None:
        """Adds host numbers to sums. A copy from the host would wait for the device, but a fill does not."""
        for name, number in numbers.items():
            metric = getattr(self, name)
            metric.update(torch.full((), number, dtype=torch.float32, device=metric.device))

    def collect(self) -> dict[str, float]:
        """Returns the numbers since the last call, over all ranks. Every rank must call it at the same step.

        ``skipped_utterances`` and ``skipped_share`` count from the start of the run.
        """
        result = self.health.compute()
        now = time.monotonic()
        # Seconds of audio per second of wall time equal hours per hour.
        seconds = max(now - self.since, 1e-9)
        result["audio_hours_per_hour"] = float(self.audio_seconds.compute()) / seconds
        if self.ceiling is not None:
            result |= self._utilization(seconds)
        result["skipped_utterances"] = float(self.skipped.compute())
        result["skipped_share"] = result["skipped_utterances"] / max(1.0, float(self.utterances.compute()))
        result["silent_share"] = float(self.silent.compute()) / max(1.0, float(self.read.compute()))
        self.memory.update(peak_memory_gb(self.memory.device))
        result["memory_gb"] = float(self.memory.compute())
        if self.gradients is not None:
            result |= self.gradients.metrics()
        self.gradients = None
        for metric in (self.health, self.audio_seconds, self.read, self.silent, self.flops, self.frames, self.padded_frames):
            metric.reset()
        self.since = now
        return result

    def _utilization(self, seconds: float) -> dict[str, float]:
        """Returns the utilization over all ranks, each relative to the peak of its own device, and the share of padding."""
        (ceiling,) = sum_over_ranks(torch.tensor(self.ceiling, device=self.flops.device))
        frames, padded = (float(metric.compute()) for metric in (self.frames, self.padded_frames))
        return {
            "mfu": float(self.flops.compute()) / seconds / float(ceiling),
            "padding_share": 1 - frames / max(1.0, padded),
        }

    def start_clock(self) -> None:
        """Starts the measurement of the throughput; a resumed run includes the time before its checkpoint."""
        self.since, self._seconds_before = time.monotonic() - self._seconds_before, 0.0

    def forget_skipped(self) -> None:
        """Resets the count of skipped utterances."""
        for metric in (self.skipped, self.utterances):
            metric.reset()

    def state_of_rank(self) -> dict[str, Any]:
        """Returns the state of this rank for a checkpoint: ``sums`` (tensors on the CPU by name) and ``seconds``."""
        sums = {
            f"{name}.{key}": value.detach().cpu().clone()
            for name, metric in self._sums()
            for key, value in metric.metric_state.items()
        }
        return {"sums": sums, "seconds": time.monotonic() - self.since}

    def load_state_of_rank(self, state: dict[str, Any]) -> None:
        """Restores the result of ``state_of_rank``."""
        for name, metric in self._sums():
            for key, value in metric.metric_state.items():  # files of earlier versions lack some of the sums
                setattr(metric, key, state["sums"].get(f"{name}.{key}", value).to(value))
        self._seconds_before = state["seconds"]

    def _sums(self) -> list[tuple[str, Metric]]:
        return [(name, metric) for name, metric in self.named_children() if metric is not self.memory]


def one_line(step: int, metrics: dict[str, float]) -> str:
    """Formats the terminal line of a step.

    Each task shows its loss beside the unigram entropy, below which learning begins, and the perplexity of its labels.
    """

    def task(name: str) -> str:
        return (
            f"{name} {metrics[f'{name}_loss']:.3f} (unigram {metrics[f'{name}_unigram_entropy']:.2f}, "
            f"acc {metrics[f'{name}_accuracy']:.3f}, perplexity {metrics[f'{name}_perplexity']:.0f})"
        )

    parts = [f"step {step}"]
    if "anchor_loss" in metrics:
        parts.append(task("anchor"))
    if "enhanced_loss" in metrics:
        churn = f" churn {metrics['enhanced_churn']:.2f}" if "enhanced_churn" in metrics else ""
        selection = f"pick=nearest {metrics['selection_agreement']:.2f}{churn}"
        parts.append(f"{task('enhanced')} w1 {metrics['enhanced_weight']:.3f} {selection}")
    parts.append(f"masked {metrics['masked_fraction']:.0%}")
    if "grad_norm" in metrics:
        cosine = f" cos {metrics['gradient_cosine']:+.2f}" if "gradient_cosine" in metrics else ""
        parts.append(f"grad {metrics['grad_norm']:.2f}{cosine}")
    parts.append(f"lr {metrics['learning_rate']:.1e}")
    parts.append(f"{metrics['audio_hours_per_hour']:.0f} h/h")
    if "mfu" in metrics:
        parts.append(f"mfu {metrics['mfu']:.0%} (padding {metrics['padding_share']:.0%})")
    if metrics["skipped_utterances"]:
        parts.append(f"skipped {metrics['skipped_utterances']:.0f}")
    return " | ".join(parts)
