"""Statistics of both tasks during training: quality of the predictions, and distribution of the labels over the codebook.

Shapes: N masked frames, V codes, H codebooks.
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

from nemo_birq.labels.statistics import entropy, histogram, normalized
from nemo_birq.losses.fused_cross_entropy import CrossEntropies
from nemo_birq.monitoring.metrics import TASKS


class LabelHealth(Metric):
    """Sums over masked frames since the last reset, which ``compute`` adds over all ranks.

    ``compute`` returns the metrics of both tasks as floats; ``monitoring.metrics`` describes them. Those of the enhanced
    labels are absent if no enhanced labels were computed.
    """

    full_state_update = False

    def __init__(self, num_codes: int, num_books: int):
        super().__init__()
        self.num_codes = num_codes
        for task in TASKS:
            # Not a metric state, so that resets keep it. Not persistent: the state dict has the keys of the stock class.
            self.register_buffer(f"{task}_used", torch.zeros(num_books, num_codes, dtype=torch.bool), persistent=False)
            self.add_state(f"{task}_counts", torch.zeros(num_books, num_codes, dtype=torch.float32), dist_reduce_fx="sum")
            self.add_state(f"{task}_loss", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
            self.add_state(f"{task}_frames", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
            self.add_state(f"{task}_correct", torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")
        # The counts of soft labels are sums of probabilities, which are above 0 for nearly all codes.
        self.add_state("picked_counts", torch.zeros(num_books, num_codes, dtype=torch.float32), dist_reduce_fx="sum")
        for name in ("reachable", "floor", "as_anchor", "frames"):
            self.add_state(name, torch.zeros((), dtype=torch.float32), dist_reduce_fx="sum")

    @property
    def codes_used(self) -> dict[str, Tensor]:
        """Codes that each task has ever used: (H, V) bool, the same on all ranks. A reset keeps them."""
        return {task: getattr(self, f"{task}_used") for task in TASKS}

    @torch.no_grad()
    def update(self, num_frames: Tensor, anchor_labels: Tensor, found: CrossEntropies) -> None:
        """Adds a batch.

        Args:
            num_frames: number of frames inside the true lengths, masked or not.
            anchor_labels: (N, H) codes.
            found: losses, predictions and enhanced labels of the N masked frames.
        """
        self.frames += num_frames
        correct = (anchor_labels == found.anchor_predicted).float().mean(dim=1).sum()
        self._add("anchor", histogram(anchor_labels, self.num_codes), found.anchor, len(anchor_labels), correct)
        if found.label_mass is not None:
            self._add("enhanced", found.label_mass, found.enhanced, len(anchor_labels), found.correct)
            self.picked_counts += histogram(found.picked, self.num_codes)
            self.reachable += found.reachable
            self.floor += found.floor
            self.as_anchor += (found.picked == anchor_labels).float().mean(dim=1).sum()

    def _add(self, task: str, counts: Tensor, loss: Tensor, frames: int, correct: Tensor) -> None:
        state = {"counts": counts, "loss": loss, "frames": frames, "correct": correct}
        for name, value in state.items():
            setattr(self, f"{task}_{name}", getattr(self, f"{task}_{name}") + value)

    def compute(self) -> dict[str, float]:
        masked = float(self.anchor_frames)
        result = {"masked_fraction": masked / max(1.0, float(self.frames))}
        for task in TASKS:
            frames = float(getattr(self, f"{task}_frames"))
            if frames == 0:
                continue
            counts = getattr(self, f"{task}_counts")
            nats = float(entropy(counts).mean())
            top1 = float((counts.amax(dim=1) / counts.sum(dim=1).clamp(min=1)).mean())
            used = self.codes_used[task]
            occurring = (self.picked_counts if task == "enhanced" else counts) > 0
            used |= occurring  # on any rank
            result |= {
                f"{task}_loss": float(getattr(self, f"{task}_loss")) / frames,
                f"{task}_accuracy": float(getattr(self, f"{task}_correct")) / frames,
                f"{task}_unigram_entropy": nats,
                f"{task}_perplexity": math.exp(nats),
                f"{task}_normalized_entropy": normalized(nats, self.num_codes, frames),
                f"{task}_unigram_accuracy": top1,
                f"{task}_top1": top1,
                f"{task}_coverage": float(occurring.float().mean()),
                f"{task}_cumulative_coverage": float(used.float().mean()),
            }
            if task == "enhanced":
                result["enhanced_floor"] = float(self.floor) / frames
                result["selection_agreement"] = float(self.reachable) / frames
                result["anchor_agreement"] = float(self.as_anchor) / frames
        return result
