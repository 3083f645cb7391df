"""ABX of each layer of an encoder; the dev set chooses the layer, the test set gives its error rates."""

from dataclasses import dataclass
from typing import Any

import torch

from nemo_birq.evaluation.abx.items import find_items
from nemo_birq.evaluation.abx.score import AbxErrors, abx_errors
from nemo_birq.evaluation.probing.data import LabelledSet
from nemo_birq.evaluation.probing.representations import Represented
from nemo_birq.utils.progress import Progress, track


@dataclass
class LayerAbx:
    """Error rates of one layer; see ``score.AbxErrors``."""

    layer: int
    dev: AbxErrors
    test: AbxErrors

    def as_json(self) -> dict[str, Any]:
        return {"layer": self.layer, "dev": self.dev.as_json(), "test": self.test.as_json()}


def score_layers(
    outputs: dict[str, Represented], sets: dict[str, LabelledSet], name: str, layers: list[int], unit: str,
    device: torch.device, progress: Progress,
) -> tuple[list[LayerAbx], list[str]]:  # fmt: skip
    """Computes the error rates of each layer on the dev and test set, and notes on items that are left out.

    Args:
        outputs: representations by set.
        sets: sets with alignments and speakers.
        name: name of the representation.
        layers: numbers of its layers.
        unit: see ``items.find_items``.
        device: where distances are computed.
        progress: shows the layers.
    """
    items = {part: find_items(outputs[part], sets[part], unit) for part in ("dev", "test")}
    notes = [
        f"{found.too_short} of {found.too_short + len(found.spans)} {unit}s of the {part} set hold the middle of no frame: "
        "ABX leaves them out."
        for part, found in items.items()
        if found.too_short
    ]
    rows = []
    for number, layer in track(list(enumerate(layers)), progress, "ABX"):
        dev, test = (abx_errors(outputs[part].frames[name][number].to(device), items[part], unit) for part in items)
        rows.append(LayerAbx(layer, dev, test))
    return rows, notes


def best_layer(rows: list[LayerAbx], kind: str) -> LayerAbx | None:
    """Returns the layer with the lowest error rate ``within`` or ``across`` on the dev set; None if it has no triples."""
    scored = [row for row in rows if getattr(row.dev, kind).error is not None]
    return min(scored, key=lambda row: getattr(row.dev, kind).error) if scored else None
