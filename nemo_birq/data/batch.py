"""The batch that a data loader yields."""

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
    """Names of the utterances; empty if none of the batch could be read, in which case ``signal`` is 1 s of silence."""
    skipped: int = 0
    """Number of utterances that could not be read since the last batch of the same worker."""
    num_samples: list[int] | None = None
    """``signal_length`` as a list, which stays on the host when the tensors move to a device."""

    noisy: Tensor | None = None
    """(M, samples) float32, the signals with noise or other speakers, for the masked pass; None: there are none."""
    mixed: list[int] | None = None
    """Rows of ``signal`` that ``noisy`` replaces, M of them."""

    @property
    def is_silent_stand_in(self) -> bool:
        """True if no utterance of this batch could be read."""
        return self.ids is not None and len(self.ids) == 0

    @property
    def lengths_on_host(self) -> Tensor:
        """``signal_length`` on the host. This waits for the device if ``num_samples`` is None."""
        return self.signal_length.cpu() if self.num_samples is None else torch.tensor(self.num_samples)


def oomptimizer_schema(_: torch.nn.Module) -> dict:
    """Returns the schema of the inputs with which NeMo's OOMptimizer finds the largest batch for each length."""
    signal, lengths = NeuralType(("B", "T"), AudioSignal()), NeuralType(("B",), LengthsType())
    return {"cls": tuple, "inputs": [{"type": kind, "seq_length": "input"} for kind in (signal, lengths)]}
