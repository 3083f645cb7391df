"""Churn: the share of enhanced labels of the same speech that change during training."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.utils.distributed import sum_over_ranks


class LabelProbe:
    """The first utterances of this rank's validation data, kept on the CPU and labelled repeatedly.

    Args:
        seconds: seconds of audio to keep; the last utterance is cut at this length. 0: none.
        sample_rate: sample rate in Hz.
    """

    def __init__(self, seconds: float, sample_rate: int):
        self.missing = int(seconds * sample_rate)
        self.signals: list[Tensor] = []
        self.resumed_lengths: list[int] | None = None
        """Number of samples of each utterance when the run was interrupted; None in a run that is not resumed."""

    @property
    def lengths(self) -> list[int]:
        """Number of samples of each utterance."""
        return [len(signal) for signal in self.signals]

    def resume(self, lengths: list[int]) -> None:
        """Empties the probe, to be filled with the same utterances again.

        Args:
            lengths: number of samples of each utterance when the run was interrupted; empty without a probe.
        """
        self.signals, self.resumed_lengths = [], lengths
        self.missing = sum(lengths) or self.missing

    def fill(self, batch: SpeechBatch) -> None:
        """Adds utterances of a batch until the probe is full, or its first labels are computed."""
        if self.missing <= 0 or batch.is_silent_stand_in:
            return
        for signal, length in zip(batch.signal, batch.signal_length.tolist(), strict=True):
            if self.missing > 0:
                self.signals.append(signal[: min(length, self.missing)].cpu())
                self.missing -= length

    def fill_from(self, batches: Iterable[SpeechBatch]) -> None:
        """Adds the first batches of a loader, if neither this run nor the one that it resumes has added any."""
        if self.missing > 0 and not self.signals and self.resumed_lengths != []:
            for batch in batches:
                self.fill(SpeechBatch(*batch))
                if self.missing <= 0:
                    return

    def label(self, model: nn.Module) -> Tensor | None:
        """Computes the nearest codes in evaluation mode, (frames, H) on the model's device; None without audio.

        Args:
            model: ``BiRQModel``, or another model with ``extract_labels(signal, lengths)``.
        """
        if not self.signals:
            return None
        self.missing = 0  # the probe must not change after the first labels
        lengths = torch.tensor(self.lengths, device=model.device)
        padded = nn.utils.rnn.pad_sequence(self.signals, batch_first=True).to(model.device)
        with evaluating(model):
            labels = model.extract_labels(padded, lengths).enhanced
        return labels[labels[..., 0] >= 0]


class Churn:
    """Share of frames whose label has changed since the last comparison."""

    def __init__(self):
        self.last: Tensor | None = None

    def look(self, labels: Tensor | None, device: torch.device) -> float | None:
        """Compares with the labels of the last call, over all ranks; None at the first call. Every rank must call it.

        Args:
            labels: (frames, H) codes of the probe, or None on a rank without audio.
            device: device of the sums.
        """
        sums = torch.zeros(2, device=device)
        if labels is not None and self.last is not None and labels.shape == self.last.shape:
            changed = (labels != self.last).float().mean(dim=1)
            sums = torch.stack([changed.sum(), changed.new_tensor(len(changed))])
        self.last = labels
        changed, frames = sum_over_ranks(sums)[0].tolist()
        return changed / frames if frames else None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Sets the model to evaluation mode within the block, and restores the mode of every module afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
