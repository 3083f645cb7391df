"""Takes the encoder's weights over, by NeMo's ``init_from_nemo_model``, and looks whether that is what happened."""

from collections import Counter
from typing import NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_only
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf
from torch import Tensor

from nemo_birq.checkpoint.nemo_archive import read_weights
from nemo_birq.finetuning.pretrained import ENCODER_PARTS


class Taken(NamedTuple):
    """Numbers of tensors by part of the model: taken from the file, left out, and new."""

    taken: dict[str, int]
    left_out: dict[str, int]
    """Parts of the file that the recognizer has no use for."""
    new: dict[str, int]
    """Parts of the recognizer that start from random numbers."""

    def __str__(self) -> str:
        def listed(parts: dict[str, int]) -> str:
            return ", ".join(f"{part} ({number} tensors)" for part, number in sorted(parts.items())) or "nothing"

        return f"taken over: {listed(self.taken)}; left out: {listed(self.left_out)}; new: {listed(self.new)}"


def check_fresh_layers(number: int, num_layers: int) -> None:
    """Raises ValueError where ``fresh_layers`` is no number of layers that leaves one to take over."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < num_layers:
        raise ValueError(
            f"fresh_layers={number}: a whole number from 0 to {num_layers - 1}, of the {num_layers} layers of the encoder"
        )


def initialize(model: ASRModel, path: str, fresh_layers: int = 0) -> Taken:
    """Copies preprocessor and encoder of a ``.nemo`` into a recognizer, and compares every tensor.

    Args:
        model: new, with random weights.
        path: of the file.
        fresh_layers: the top layers of the encoder that are not copied. What they learned in pretraining is to predict the
            labels of masked frames, and fine-tuning first has to undo it.

    Raises:
        ValueError: naming the tensors that are missing on one side, of another shape, or not equal afterwards.
    """
    source = read_weights(path)
    compare(model, source, path, values=False)
    num_layers = len(model.encoder.layers)
    fresh = tuple(f"encoder.layers.{layer}." for layer in range(num_layers - fresh_layers, num_layers))
    # Of a head of the same name nothing is taken.
    form = {"pretrained": {"path": path, "include": list(ENCODER_PARTS), "exclude": list(fresh)}}
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": form}))
    if rank_zero_only.rank == 0:  # NeMo fills the model of this rank alone, DDP sends it to the others
        compare(model, source, path, values=True, without=fresh)
    found = model.state_dict()
    return Taken(
        _by_part(name for name in found if name.startswith(ENCODER_PARTS) and not name.startswith(fresh)),
        _by_part(name for name in source if not name.startswith(ENCODER_PARTS) or name.startswith(fresh)),
        _by_part(name for name in found if not name.startswith(ENCODER_PARTS) or name.startswith(fresh)),
    )


def compare(model: ASRModel, source: dict[str, Tensor], path: str, values: bool, without: tuple[str, ...] = ()) -> None:
    """Compares the tensors of preprocessor and encoder with those of a file, their shapes or their ``values``.

    Args:
        model: the recognizer.
        source: tensors of the file ``path``.
        path: for the message.
        values: also compare values.
        without: tensors whose names begin so are left out.

    Raises:
        ValueError: with the list of differences.
    """
    wanted = {name: tensor for name, tensor in source.items() if _is_compared(name, without)}
    found = {name: tensor for name, tensor in model.state_dict().items() if _is_compared(name, without)}
    lines = [f"{name}: only in {path}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name}: only in the recognizer" for name in sorted(found.keys() - wanted.keys())]
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name].shape != found[name].shape:
            lines.append(f"{name}: {tuple(found[name].shape)}; pretrained: {tuple(wanted[name].shape)}")
        elif values and not torch.equal(wanted[name], found[name].cpu()):
            lines.append(f"{name}: other values than in {path}")
    if lines:
        raise ValueError("the encoder would not be, or is not, the pretrained one:\n  " + "\n  ".join(lines))


def _is_compared(name: str, without: tuple[str, ...]) -> bool:
    return name.startswith(ENCODER_PARTS) and not name.startswith(without)


def _by_part(names) -> dict[str, int]:
    return dict(Counter(name.partition(".")[0] for name in names))
