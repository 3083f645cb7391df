"""What a user sees while training: one line now and then in the terminal, the same numbers in the logger."""

import time

from torch import nn
from torchmetrics import SumMetric

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.label_health import LabelHealth


class TrainingLog(nn.Module):
    """Gathers label health and throughput between two looks, without waiting for the device."""

    def __init__(self, num_codes: int, num_books: int, sample_rate: int):
        super().__init__()
        self.health = LabelHealth(num_codes, num_books)
        self.sample_rate = sample_rate
        self.audio_seconds = SumMetric()
        self.utterances = SumMetric()
        self.skipped = SumMetric()
        self.since = time.monotonic()

    def count(self, batch: SpeechBatch) -> None:
        """Adds a batch."""
        self.audio_seconds.update(batch.signal_length.sum() / self.sample_rate)
        self.utterances.update(len(batch.signal_length) + batch.skipped)
        self.skipped.update(batch.skipped)

    def collect(self) -> dict[str, float]:
        """The numbers since the last call, over all ranks; every rank must call it at the same step.

        ``skipped_utterances`` and ``skipped_share`` count from the start of the run.
        """
        result = self.health.compute()
        now = time.monotonic()
        # Seconds of audio per second of wall time, which is hours per hour.
        result["audio_hours_per_hour"] = float(self.audio_seconds.compute()) / max(now - self.since, 1e-9)
        result["skipped_utterances"] = float(self.skipped.compute())
        result["skipped_share"] = result["skipped_utterances"] / max(1.0, float(self.utterances.compute()))
        self.health.reset()
        self.audio_seconds.reset()
        self.since = now
        return result


def one_line(step: int, metrics: dict[str, float]) -> str:
    """The terminal's line for a step.

    Each task shows its loss against the unigram entropy (learning begins below it) and the perplexity of its labels.
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
        parts.append(
            f"{task('enhanced')} w1 {metrics['enhanced_weight']:.3f} pick=nearest {metrics['selection_agreement']:.2f}"
        )
    parts.append(f"masked {metrics['masked_fraction']:.0%}")
    if "grad_norm" in metrics:
        parts.append(f"grad {metrics['grad_norm']:.2f}")
    parts.append(f"lr {metrics['learning_rate']:.1e}")
    parts.append(f"{metrics['audio_hours_per_hour']:.0f} h/h")
    if metrics["skipped_utterances"]:
        parts.append(f"skipped {metrics['skipped_utterances']:.0f}")
    return " | ".join(parts)
