"""What a data loader yields."""

from typing import NamedTuple

import torch
from nemo.core.neural_types import AudioSignal, LengthsType, NeuralType
from torch import Tensor


class SpeechBatch(NamedTuple):
    """Signals of B utterances."""

    signal: Tensor
    """(B, samples) float32, zero-padded at the end."""
    signal_length: Tensor
    """(B,) int64, in samples."""
    ids: list[str] | None = None
    """Names of the utterances; empty where none of the batch could be read and ``signal`` is one second of silence."""
    skipped: int = 0
    """Utterances that could not be read since the last batch of the same worker."""
    num_samples: list[int] | None = None
    """``signal_length`` once more; a list stays on the host when the tensors move to a device."""

    noisy: Tensor | None = None
    """(B, samples) float32, the signals with noise or other speakers, for the masked pass; None: the signals themselves."""

    @property
    def is_silent_stand_in(self) -> bool:
        """No utterance of this batch could be read."""
        return self.ids is not None and len(self.ids) == 0

    @property
    def lengths_on_host(self) -> Tensor:
        """``signal_length`` on the host: waits for the device where ``num_samples`` is not given."""
        return self.signal_length.cpu() if self.num_samples is None else torch.tensor(self.num_samples)


def oomptimizer_schema(_: torch.nn.Module) -> dict:
    """Returns the inputs by which NeMo's OOMptimizer finds the largest batch for each length."""
    signal, lengths = NeuralType(("B", "T"), AudioSignal()), NeuralType(("B",), LengthsType())
    return {"cls": tuple, "inputs": [{"type": kind, "seq_length": "input"} for kind in (signal, lengths)]}
