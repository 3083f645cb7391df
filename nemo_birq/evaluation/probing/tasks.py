"""Tasks of a probe: a sequence of symbols (CTC), or the phone of each frame.

Shapes: P probes, n frames of all utterances of a batch, B utterances, C outputs, T' encoder frames.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from kaldialign import edit_distance
from nemo.collections.asr.losses.ctc import CTCLoss
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Task(Protocol):
    """Loss and errors of P probes at once."""

    name: str
    """``ctc`` or ``frames``."""
    metric: str
    """Name of the error rate."""
    symbols: list[str]
    num_outputs: int
    """C."""

    def losses(self, logits: Tensor, counts: Sequence[int], targets: Sequence[Tensor]) -> Tensor:
        """Computes the loss of each probe on each utterance, (P, B), in nats.

        Args:
            logits: (P, n, C), with the utterances in sequence.
            counts: B numbers of frames, with the sum n.
            targets: B int64 tensors.
        """
        ...

    def errors(self, logits: Tensor, counts: Sequence[int], targets: Sequence[Tensor]) -> Tensor:
        """Counts the errors of each probe on each utterance, (P, B) int64; arguments as ``losses``."""
        ...

    def sizes(self, targets: Sequence[Tensor]) -> Tensor:
        """Counts the symbols or frames of each utterance, (B,) int64."""
        ...


class FrameTask:
    """The phone at the middle of each frame; targets are (T',) int64, -1 where there is none."""

    name = "frames"
    metric = "frame error rate"

    def __init__(self, symbols: list[str]):
        self.symbols = symbols
        self.num_outputs = len(symbols)

    def losses(self, logits: Tensor, counts: Sequence[int], targets: Sequence[Tensor]) -> Tensor:
        wanted = torch.cat(list(targets)).expand(len(logits), -1)
        of_frames = F.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-1, reduction="none")
        return torch.stack([part.sum(1) for part in of_frames.split(list(counts), dim=1)], 1)

    def errors(self, logits: Tensor, counts: Sequence[int], targets: Sequence[Tensor]) -> Tensor:
        wanted = torch.cat(list(targets))
        wrong = (logits.argmax(-1) != wanted) & (wanted >= 0)
        return torch.stack([part.sum(1) for part in wrong.split(list(counts), dim=1)], 1)

    def sizes(self, targets: Sequence[Tensor]) -> Tensor:
        return torch.stack([(target >= 0).sum() for target in targets])


class CtcTask:
    """A sequence of symbols, decoded greedily; targets are int64 of any length. The last output is the blank."""

    name = "ctc"

    def __init__(self, symbols: list[str], metric: str = "CER"):
        self.symbols = symbols
        self.metric = metric
        self.num_outputs = len(symbols) + 1
        self.ctc = CTCLoss(num_classes=len(symbols), zero_infinity=True, reduction="none")

    def losses(self, logits: Tensor, counts: Sequence[int], targets: Sequence[Tensor]) -> Tensor:
        probes = len(logits)
        log_probs = logits.log_softmax(-1)
        padded = pad_sequence([part for one in log_probs for part in one.split(list(counts))], batch_first=True)
        found = self.ctc(
            log_probs=padded,
            targets=pad_sequence(list(targets), batch_first=True).repeat(probes, 1),
            input_lengths=torch.tensor(counts, device=logits.device).repeat(probes),
            target_lengths=self.sizes(targets).to(logits.device).repeat(probes),
        )
        return found.view(probes, len(targets))

    def errors(self, logits: Tensor, counts: Sequence[int], targets: Sequence[Tensor]) -> Tensor:
        picked = logits.argmax(-1).cpu()
        references = [target.tolist() for target in targets]
        wrong = [
            [edit_distance(reference, self.decode(part))["total"] for reference, part in zip(references, parts, strict=True)]
            for parts in (one.split(list(counts)) for one in picked)
        ]
        return torch.tensor(wrong)

    def sizes(self, targets: Sequence[Tensor]) -> Tensor:
        return torch.tensor([len(target) for target in targets])

    def num_impossible(self, counts: Sequence[int], targets: Sequence[Tensor]) -> int:
        """Counts the utterances with fewer frames than CTC needs for their symbols, which cannot be used for training."""
        needed = [len(target) + int((target[1:] == target[:-1]).sum()) for target in targets]
        return sum(count < frames for count, frames in zip(counts, needed, strict=True))

    def decode(self, picked: Tensor) -> list[int]:
        """Decodes (T',) outputs greedily: removes repetitions and blanks."""
        return [symbol for symbol in picked.unique_consecutive().tolist() if symbol != len(self.symbols)]
