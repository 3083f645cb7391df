"""Operations and memory of a training step, counted from the shapes of its tensors without computing it.

The step is the project's own code on PyTorch's fake tensors, which have shapes and no contents: a model of any size and a
batch of any length take seconds and little memory. tests/unit/test_paper_cost.py compares the counts with real steps.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from flop_counting import flop_counter
from step_variants import Setting
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from nemo_birq import BiRQModel

ADAMW = 2  # averages of the gradient and of its square


class StepCounts(NamedTuple):
    """Operations and memory of one step."""

    flop: int
    """Floating point operations of products and convolutions, forward and backward."""
    saved: int
    """Bytes that the forward pass keeps for the backward pass, without parameters and buffers."""
    parameters: int
    """Number of parameters."""
    buffers: int
    """Bytes of buffers."""

    @property
    def fixed(self) -> int:
        """Bytes of parameters, gradients, AdamW's averages (all float32) and buffers."""
        return 4 * self.parameters * (2 + ADAMW) + self.buffers


class CudaAutocast(TorchFunctionMode):
    """Computes the operations in float32 that autocast computes in float32 on a GPU but not on a CPU."""

    FLOAT32 = (F.layer_norm, F.softmax, F.log_softmax, torch.softmax, torch.log_softmax, Tensor.softmax, Tensor.log_softmax)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in self.FLOAT32 or not torch.is_autocast_enabled("cpu"):
            return func(*args, **(kwargs or {}))
        args = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]
        with torch.autocast("cpu", enabled=False):
            return func(*args, **(kwargs or {}))


def count_step(setting: Setting, *overrides: str, encoder_only: bool = False, mask_seed: int | None = None) -> StepCounts:
    """Counts a training step of this project's model.

    Args:
        setting: configuration, batch and precision; its device is not used.
        overrides: Hydra overrides of the variant.
        encoder_only: count only the masked pass through all layers and back, as in CTC fine-tuning.
        mask_seed: seed of the masks; None: the average number of masked frames.
    """
    model = _build(setting, overrides)
    features, lengths, preprocessing = _features(model, setting)
    generator = torch.Generator().manual_seed(mask_seed or 0)
    mask = model.masking.draw(lengths, features.shape[2], generator)
    frames = _masked_frames(model, mask, lengths, mask_seed)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _make_fake(model, mode)
    model.masked_frames = lambda mask, num_frames: mode.from_tensor(frames).clone()  # their number depends on contents
    features, lengths = mode.from_tensor(features), mode.from_tensor(lengths)
    half = setting.precision == "bf16-mixed"
    with flop_counter() as flops:
        with CudaAutocast(), torch.autocast("cpu", torch.bfloat16, enabled=half), _saved(model) as saved:
            if encoder_only:
                loss = model.encoder(audio_signal=features, length=lengths)[0].sum()
            else:
                loss = model.losses_of_features(features, lengths, mask, model.schedule.full, generator).loss
        num_bytes = sum(saved.values())
        loss.backward()
    return StepCounts(
        flop=flops.get_total_flops() + preprocessing,
        saved=num_bytes,
        parameters=sum(p.numel() for p in (model.encoder if encoder_only else model).parameters() if p.requires_grad),
        buffers=sum(b.numel() * b.element_size() for b in model.buffers()),
    )


def _build(setting: Setting, overrides: tuple[str, ...]) -> BiRQModel:
    """Builds the model on the CPU, with uninitialized large weights."""
    with patch.object(nn.init, "kaiming_uniform_", lambda tensor, *args, **kwargs: tensor):
        return BiRQModel(setting.model_config(*overrides)).train()


def _features(model: BiRQModel, setting: Setting) -> tuple[Tensor, Tensor, int]:
    """Returns features (B, F, T), lengths (B,) and their operations, which are counted for one utterance of equal length."""
    count = max(1, round(setting.batch_seconds / setting.utterance_seconds))
    samples = torch.tensor([round(setting.batch_seconds / count * setting.model_config().sample_rate)])
    with torch.no_grad(), flop_counter() as flops:
        features, lengths = model.preprocessor(input_signal=0.1 * torch.randn(1, int(samples)), length=samples)
    return features.repeat(count, 1, 1), lengths.repeat(count), count * flops.get_total_flops()


def _masked_frames(model: BiRQModel, mask: Tensor, lengths: Tensor, mask_seed: int | None) -> Tensor:
    """Returns positions of masked encoder frames: those of the mask, or the first ones in the average number."""
    num_frames = -(-mask.shape[1] // model.cfg.encoder.subsampling_factor)
    if mask_seed is not None:
        return model.masked_frames(mask, num_frames)
    many = model.masking.draw(lengths[:1].expand(2000), mask.shape[1], torch.Generator().manual_seed(0))
    return torch.arange(round(len(model.masked_frames(many, num_frames)) * len(lengths) / len(many)))


def _make_fake(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replaces all parameters and buffers by fake tensors without contents."""
    for module in model.modules():
        for name, tensor in module._parameters.items():
            if tensor is not None:
                module._parameters[name] = nn.Parameter(mode.from_tensor(tensor.detach()), tensor.requires_grad)
        for name, tensor in module._buffers.items():
            if tensor is not None:
                module._buffers[name] = mode.from_tensor(tensor)


@contextmanager
def _saved(model: nn.Module) -> Iterator[dict[Any, int]]:
    """Yields the bytes of every storage that is saved for the backward pass, except those of the model."""
    own = {tensor.untyped_storage()._cdata for tensor in [*model.parameters(), *model.buffers()]}
    found: dict[Any, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            found[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found
