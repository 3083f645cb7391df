"""How much the enhanced labels of the same speech change while the model learns."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.utils.distributed import sum_over_ranks


class LabelProbe:
    """The first utterances of this rank's validation data, kept on the CPU to be labelled again and again.

    Args:
        seconds: how much audio to keep; the last utterance is cut there. 0: none.
        sample_rate: in Hz.
    """

    def __init__(self, seconds: float, sample_rate: int):
        self.missing = int(seconds * sample_rate)
        self.signals: list[Tensor] = []
        self.resumed_lengths: list[int] | None = None
        """Samples of each utterance that the probe had when the run was interrupted; None in a run that is not resumed."""

    @property
    def lengths(self) -> list[int]:
        """Samples of each utterance."""
        return [len(signal) for signal in self.signals]

    def resume(self, lengths: list[int]) -> None:
        """Empties the probe; it is filled with the same utterances again.

        Args:
            lengths: of the probe when the run was interrupted, which may be without one.
        """
        self.signals, self.resumed_lengths = [], lengths
        self.missing = sum(lengths) or self.missing

    def fill(self, batch: SpeechBatch) -> None:
        """Takes what is still missing from a batch, until the first labels are made."""
        if self.missing <= 0 or batch.is_silent_stand_in:
            return
        for signal, length in zip(batch.signal, batch.signal_length.tolist(), strict=True):
            if self.missing > 0:
                self.signals.append(signal[: min(length, self.missing)].cpu())
                self.missing -= length

    def fill_from(self, batches: Iterable[SpeechBatch]) -> None:
        """Takes the first batches, if nothing was taken yet, also not by the run that is resumed."""
        if self.missing > 0 and not self.signals and self.resumed_lengths != []:
            for batch in batches:
                self.fill(SpeechBatch(*batch))
                if self.missing <= 0:
                    return

    def label(self, model: nn.Module) -> Tensor | None:
        """Nearest codes of all frames, (frames, H) on the model's device, made in evaluation mode; None without audio.

        Args:
            model: with ``extract_labels(signal, lengths)``, a ``BiRQModel``.
        """
        if not self.signals:
            return None
        self.missing = 0  # from now on the probe stays what it is
        lengths = torch.tensor(self.lengths, device=model.device)
        padded = nn.utils.rnn.pad_sequence(self.signals, batch_first=True).to(model.device)
        with evaluating(model):
            labels = model.extract_labels(padded, lengths).enhanced
        return labels[labels[..., 0] >= 0]


class Churn:
    """Share of frames whose label is not what it was at the last look."""

    def __init__(self):
        self.last: Tensor | None = None

    def look(self, labels: Tensor | None, device: torch.device) -> float | None:
        """Compares with the last look, over all ranks; None at the first one. Every rank must call it.

        Args:
            labels: (frames, H) codes of the probe, or None on a rank that has none.
            device: of the sums.
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
    """Within it the model is in evaluation mode; afterwards every module has the mode that it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
