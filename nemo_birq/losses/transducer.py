"""The loss of RNN transducers on a CPU, where NeMo's loops over frames and symbols in Python."""

import torch
from nemo.collections.asr.losses.rnnt import RNNTLoss
from nemo.collections.asr.losses.rnnt_pytorch import RNNTLossPytorch
from nemo.collections.asr.models import ASRModel
from torch import Tensor
from torch.nn.functional import pad

STANDARD = ("default", "warprnnt_numba")
"""Names of ``model.loss.loss_name`` for the loss of Graves; the other names are other losses."""


class _LossByFrames(RNNTLossPytorch):
    """NeMo's reference implementation with one operation for all symbols of a frame in place of one for each."""

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        return super().forward(acts.float(), labels, act_lens, label_lens)

    def compute_forward_prob(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """Returns the log-probabilities of the transcripts: (B,), of the type of ``acts``.

        The forward variable is a(t, u) = a(t-1, u) p(blank | t-1, u) + a(t, u-1) p(y_u | t, u-1) (equation 16 of arXiv
        1211.3711). Divided by the probability of emitting the symbols 1 to u at frame t, it is a cumulative sum over u. The
        logarithms are in float64, because their differences are much smaller than they are.

        Args:
            acts: (B, T', U + 1, V + 1) log-probabilities, T' encoder frames, U symbols, V symbols of the vocabulary.
            labels: (B, U) int64.
            act_lens: (B,) numbers of frames.
            label_lens: (B,) numbers of symbols.
        """
        blank = acts[..., self.blank].double()
        index = labels[:, None, :, None].expand(-1, acts.shape[1], -1, -1)
        emitted = acts[:, :, :-1].gather(3, index).squeeze(3).double()
        all_before = pad(emitted.cumsum(2), (1, 0))
        forward = [all_before[:, 0]]
        for frame in range(1, acts.shape[1]):
            from_last = forward[-1] + blank[:, frame - 1]
            forward.append(all_before[:, frame] + torch.logcumsumexp(from_last - all_before[:, frame], 1))
        end = torch.arange(len(acts), device=acts.device), act_lens - 1, label_lens
        return (torch.stack(forward, 1)[end] + blank[end]).to(acts.dtype)


class CpuTransducerLoss(RNNTLoss):
    """NeMo's ``RNNTLoss`` with its default ``loss_name``, for tensors on a CPU.

    NeMo's kernel for a CPU is plain Python, and takes most of a training step there (benchmarks/transducer_loss.py). On a
    GPU, NeMo's numba kernel is used.

    Args:
        num_classes: V, without the blank.
        reduction: as for ``RNNTLoss``.
    """

    def __init__(self, num_classes: int, reduction: str | None = "mean_batch"):
        super().__init__(num_classes, reduction)
        self._loss = _LossByFrames(blank=num_classes, reduction="none")


def use_cpu_loss(model: ASRModel) -> None:
    """Gives a transducer that is trained on a CPU the fast loss; other recognizers and other losses stay as they are."""
    if not isinstance(getattr(model, "loss", None), RNNTLoss):
        return
    settings = model.cfg.get("loss") or {}
    options = settings.get("warprnnt_numba_kwargs") or {}
    is_changed = options.get("fastemit_lambda", 0) > 0 or options.get("clamp", -1) > 0
    if is_changed or settings.get("loss_name", "default") not in STANDARD:
        return
    model.loss = CpuTransducerLoss(model.joint.num_classes_with_blank - 1, model.loss.reduction)
    if model.joint.fuse_loss_wer:
        model.joint.set_loss(model.loss)
