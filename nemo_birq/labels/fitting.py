"""Fit of a quantizer to the frames that it labels: principal components and k-means codes instead of random ones.

A run gathers frames in its first steps, fits, and continues with labels that follow the data. The fitted tensors are the
same on all ranks and are saved with the labels. Those of anchor labels depend only on the input.

Shapes: N masked frames of this rank, E input width, H codebooks, V codes, d code dimension, R frames of a fit.
"""

from typing import NamedTuple

import torch
from nemo.utils import logging
from torch import Tensor

from nemo_birq.labels.kmeans import fit_on_sphere, matched, nearest_on_sphere
from nemo_birq.labels.pca import pca_projection
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.utils.distributed import rank, sum_over_ranks, world_size
from nemo_birq.utils.rng import to_device

FEW = 4  # frames per code, below which a fit logs a warning


class FitSchedule(NamedTuple):
    """Optimizer steps, counted from 0, at which frames are gathered."""

    starts: tuple[int, ...]
    """First step of each gathering, in ascending order."""
    steps: int
    """Steps of a gathering; only the first batch of each step is used."""
    frames: int
    """R, largest number of frames of a gathering over all ranks."""


class QuantizerFitting:
    """Gathers frames over several steps, and fits a quantizer to them at the last step.

    Args:
        quantizer: quantizer whose buffers are overwritten.
        schedule: steps at which frames are gathered.
        projection: fit the projection, once.
        codes: fit the codes, at each gathering.
        seed: seed of rotations and k-means.
        name: name of the labels, ``anchor`` or ``enhanced``, for file and log.
    """

    def __init__(
        self,
        quantizer: RandomProjectionQuantizer,
        schedule: FitSchedule,
        projection: bool,
        codes: bool,
        seed: int,
        name: str,
    ):
        self.quantizer = quantizer
        self.schedule = schedule
        self.projection, self.codes = projection, codes
        self.seed = seed
        self.name = name
        self.num_fits = 0
        self.frames: Tensor | None = None
        """(R, E) float32, the frames gathered so far on all ranks, padded with zeros; None outside of a gathering."""
        self._part: int | None = None

    def begin_step(self, step: int) -> None:
        """Decides if the first batch of an optimizer step is gathered, from the number of the step, counted from 0."""
        begun = [start for start in self.schedule.starts if start <= step]
        part = step - begun[-1] if begun else self.schedule.steps
        self._part = part if self.num_fits < len(begun) and part < self.schedule.steps else None

    @torch.no_grad()
    def gather(self, inputs: Tensor) -> bool:
        """Adds evenly spaced frames of a batch on all ranks, and fits at the last batch. Every rank must call it.

        Args:
            inputs: (N, E), frames before the projection.

        Returns:
            True if the quantizer was fitted.
        """
        if self._part is None:
            return False
        part, self._part = self._part, None
        _, steps, total = self.schedule
        if self.frames is None:
            self.frames = torch.zeros(total, inputs.shape[1])
        self.frames = self.frames.to(inputs.device)
        block = inputs.new_zeros(total // steps, inputs.shape[1], dtype=torch.float32)
        first, last = (place * len(block) // world_size() for place in (rank(), rank() + 1))
        count = min(last - first, len(inputs))
        chosen = torch.arange(count) * len(inputs) // max(1, count)
        block[first : first + count] = inputs[to_device(chosen, inputs.device)].float()
        (block,) = sum_over_ranks(block)
        self.frames[part * len(block) : (part + 1) * len(block)] = block
        with torch.autocast(inputs.device.type, enabled=False):
            return part == steps - 1 and self._fit()

    def _fit(self) -> bool:
        frames = self.frames[self.frames.square().sum(dim=1) > 0]
        self.frames = None
        self.num_fits += 1
        if len(frames) == 0:
            logging.warning(f"The {self.name} quantizer is not fitted, because no frames were gathered.")
            return False
        generator = torch.Generator().manual_seed(self.seed + self.num_fits)
        own = self.quantizer
        num_books, num_codes, code_dim = own.codebook.shape
        first = self.num_fits == 1
        if first and self.projection:
            own.projection.copy_(_of_first_rank(pca_projection(frames, num_books, code_dim, generator), own.projection))
        units = own.unit_vectors(frames)
        before = [float(nearest_on_sphere(units[:, book], own.codebook[book])[0].mean()) for book in range(num_books)]
        if self.codes:
            for book in range(num_books):
                old = own.codebook[book].clone()
                start = _spread(units[:, book], num_codes, generator) if first else old
                codes = fit_on_sphere(units[:, book], start, generator)
                own.codebook[book].copy_(_of_first_rank(codes if first else matched(codes, old), old))
        after = [float(nearest_on_sphere(units[:, book], own.codebook[book])[0].mean()) for book in range(num_books)]
        fitted = " and ".join(["projection"] * self.projection + ["codes"] * self.codes)
        logging.info(
            f"The {fitted} of the {self.name} labels were fitted to {len(frames)} frames: mean cosine of frames and codes "
            f"{sum(before) / num_books:.3f} -> {sum(after) / num_books:.3f}."
        )
        if self.codes and len(frames) < FEW * num_codes:
            logging.warning(
                f"The {self.name} labels have {len(frames)} frames for {num_codes} codes, fewer than {FEW} per code. Raise "
                f"model.birq.anchor.fit_frames (now {self.schedule.frames}) or fit_steps (now {self.schedule.steps})."
            )
        return True

    def tensors(self) -> dict[str, Tensor]:
        """Returns the state of the fit and the gathered frames of an unfinished one, by their names in the file."""
        found = {f"{self.name}_fits": torch.tensor(self.num_fits)}
        if self.projection:
            found[f"fitted_{self.name}_projection"] = self.quantizer.projection
        if self.codes:
            found[f"fitted_{self.name}_codebook"] = self.quantizer.codebook
        return found if self.frames is None else found | {f"{self.name}_frames": self.frames}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Loads the state from the tensors of a file; ``tensors.restore`` copies projection and codebook."""
        self.num_fits = int(tensors.get(f"{self.name}_fits", 0))
        frames = tensors.get(f"{self.name}_frames")
        fits = frames is not None and len(frames) == self.schedule.frames
        self.frames = frames.cpu().clone() if fits else None


def _spread(units: Tensor, num_codes: int, generator: torch.Generator) -> Tensor:
    """Returns the frames with which k-means begins, without repetition if there are enough: (N, d) -> (V, d)."""
    drawn = torch.randperm(len(units), generator=generator)[torch.arange(num_codes) % len(units)]
    return units[drawn.to(units.device)].clone()


def _of_first_rank(tensor: Tensor, like: Tensor) -> Tensor:
    """Returns the tensor of the first rank on all ranks, because machines may differ in the last digits."""
    own = tensor.to(like)
    return own if world_size() == 1 else sum_over_ranks(own if rank() == 0 else torch.zeros_like(own))[0]
