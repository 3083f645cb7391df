"""Copies of the preprocessor and encoder of a pretrained file, with counts and checks of the tensors."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn

from nemo_birq.pretrained.named import ENCODER_PARTS


class Taken(NamedTuple):
    """Numbers of tensors by part of the model: copied from the file, left out, and new."""

    taken: dict[str, int]
    left_out: dict[str, int]
    """Parts of the file that the model does not use."""
    new: dict[str, int]
    """Parts of the model that start from random numbers."""

    @classmethod
    def of(cls, model: nn.Module, source: Iterable[str], parts: tuple[str, ...], fresh: tuple[str, ...] = ()) -> "Taken":
        """Counts the tensors of a model and of a file, ``source``, from which ``parts`` except ``fresh`` are copied."""

        def is_taken(name: str) -> bool:
            return name.startswith(parts) and not name.startswith(fresh)

        found = list(model.state_dict())
        return cls(
            _by_part(name for name in found if is_taken(name)),
            _by_part(name for name in source if not is_taken(name)),
            _by_part(name for name in found if not is_taken(name)),
        )

    def __str__(self) -> str:
        def listed(parts: dict[str, int]) -> str:
            return ", ".join(f"{part} ({number} tensors)" for part, number in sorted(parts.items())) or "nothing"

        return f"copied: {listed(self.taken)}; left out: {listed(self.left_out)}; new: {listed(self.new)}"


def compare(model: nn.Module, source: dict[str, Tensor], path: str, parts: tuple[str, ...] = ENCODER_PARTS) -> None:
    """Compares the names and shapes of the tensors of a model with those of a file.

    Args:
        model: model to train.
        source: tensors of the file ``path``.
        path: path of the file, for the message.
        parts: prefixes of tensor names that are compared.

    Raises:
        ValueError: tensors differ; the message lists the differences.
    """
    wanted = {name: tensor for name, tensor in source.items() if name.startswith(parts)}
    found = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
    lines = [f"{name}: only in {path}" for name in sorted(wanted.keys() - found.keys())]
    lines += [f"{name}: only in the model" for name in sorted(found.keys() - wanted.keys())]
    lines += [
        f"{name}: {tuple(found[name].shape)}; pretrained: {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if wanted[name].shape != found[name].shape
    ]
    if lines:
        raise ValueError("the encoder would not be the pretrained one:\n  " + "\n  ".join(lines))


def _by_part(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(name.partition(".")[0] for name in names))
