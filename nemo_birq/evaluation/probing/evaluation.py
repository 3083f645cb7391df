"""From splits to a table: the error rate of each probe on the test set, with its interval."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nemo_birq.evaluation.probing.linear import Scores, Split, Training, fit, score
from nemo_birq.evaluation.probing.representations import LOG_MEL, PRETRAINED, UNTRAINED
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.scoring.confidence import ratio_interval


@dataclass
class Row:
    """One probe."""

    representation: str
    """``log-mel``, ``untrained`` or ``pretrained``."""
    layer: int | None
    """1..L; None for the log-mel features and for the weighted sum of layers."""
    error: float
    """Error rate on the test set."""
    error_interval: tuple[float, float]
    """95 %, by the bootstrap over utterances."""
    loss: float
    """On the test set, in nats per symbol or frame."""
    loss_interval: tuple[float, float]
    dev_loss: float
    """The lowest on the dev set; its epoch was taken."""
    epoch: int
    """That epoch, from 1."""
    layer_weights: list[float] | None = None
    """Of the weighted sum."""

    @property
    def is_weighted_sum(self) -> bool:
        return self.layer_weights is not None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def evaluate(
    splits: dict[str, dict[str, Split]],
    layers: list[int],
    task: Task,
    training: Training,
    device: torch.device,
    progress: Callable[[str, float], None],
) -> list[Row]:
    """Trains and tests the probes of each representation.

    Args:
        splits: by set (``train``, ``dev``, ``test``) and representation.
        layers: numbers of the K layers of the encoders.
        task, training, device: see ``linear.fit``.
        progress: is called after each epoch with the representation and the lowest loss on the dev set.
    """
    rows = []
    for name in sorted(splits["train"], key=[LOG_MEL, UNTRAINED, PRETRAINED].index):
        train, dev, test = (splits[part][name] for part in ("train", "dev", "test"))
        mixed = len(train.frames) > 1
        fitted = fit(
            train, dev, task, training, device, mixed, lambda losses, name=name: progress(name, float(losses.min()))
        )
        scores = score(fitted.probes, test, task, device)
        numbers: list[int | None] = [None] if name == LOG_MEL else list(layers)
        for probe, layer in enumerate([*numbers, None] if mixed else numbers):
            weights = fitted.probes.layer_weights.tolist() if mixed and layer is None else None
            rows.append(_row(name, layer, probe, scores, fitted.dev_losses, weights))
    return rows


def _row(name: str, layer: int | None, probe: int, scores: Scores, dev: Tensor, weights: list[float] | None) -> Row:
    sizes, errors, losses = scores.sizes.numpy(), scores.errors[probe].numpy(), scores.losses[probe].double().numpy()
    best = int(dev[:, probe].argmin())
    return Row(
        name,
        layer,
        error=float(errors.sum() / sizes.sum()),
        error_interval=ratio_interval(errors, sizes),
        loss=float(losses.sum() / sizes.sum()),
        loss_interval=ratio_interval(losses, sizes),
        dev_loss=float(dev[best, probe]),
        epoch=best + 1,
        layer_weights=weights,
    )


def constant_error(train: Split, test: Split, task: Task) -> float:
    """Error rate on the test set without looking: of the most frequent phone, or of no symbol at all with CTC."""
    if task.name == "ctc":
        return 1.0
    phones, wanted = torch.cat(train.targets), torch.cat(test.targets)
    return float((wanted[wanted >= 0] != phones[phones >= 0].mode().values).float().mean())


def conclusion(rows: list[Row], task: Task, constant: float) -> str:
    """The best of each in a sentence; ``constant`` is that of ``constant_error``."""
    best = {name: min((row for row in rows if row.representation == name), key=lambda row: row.loss)
            for name in dict.fromkeys(row.representation for row in rows)}  # fmt: skip
    top = best.pop(PRETRAINED)
    text = f"Pretrained, {_where(top)}: {task.metric} {top.error:.1%}, loss {top.loss:.3f}"
    for name, row in best.items():
        text += f"; {name}{'' if name == LOG_MEL else ', ' + _where(row)}: {row.error:.1%}, {row.loss:.3f}"
    return f"{text}; without looking {constant:.1%}."


def _where(row: Row) -> str:
    return "weighted sum" if row.is_weighted_sum else f"layer {row.layer}"
