"""All measures of one encoder: probes of phones and of a CTC task, and ABX."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nemo_birq.evaluation.abx.layers import LayerAbx, score_layers
from nemo_birq.evaluation.encoders.opening import open_encoder
from nemo_birq.evaluation.encoders.protocol import LayeredEncoder
from nemo_birq.evaluation.probing.data import NAMES, LabelledSet
from nemo_birq.evaluation.probing.evaluation import ProbeScore
from nemo_birq.evaluation.probing.linear import Training
from nemo_birq.evaluation.probing.representations import PRETRAINED, Representation
from nemo_birq.evaluation.probing.run import Probed, Speech, check_fits, read_outputs, train_probes
from nemo_birq.evaluation.probing.tasks import Task
from nemo_birq.utils.progress import Progress

Sets = dict[str, LabelledSet]
"""Training, dev and test set by name."""


class Material(NamedTuple):
    """Data and settings with which every encoder is measured."""

    tasks: list[tuple[Sets, Task]]
    """Tasks of the probes, each with its sets."""
    aligned: Sets | None
    """Sets for ABX; None leaves it out."""
    unit: str
    """Items of ABX, see ``abx.items``."""
    training: Training
    workers: int

    def speech(self, sample_rate: int) -> dict[str, Speech]:
        """Returns the utterances of all tasks by set, at a sample rate in Hz."""
        found = {}
        for name in NAMES:
            rows = sorted({row for sets, _ in self.tasks for row in sets[name].rows})
            found[name] = Speech(self.tasks[0][0][name].data._replace(sample_rate=sample_rate), rows)
        return found


@dataclass
class Measured:
    """Measures of one encoder."""

    name: str
    path: Path
    kind: str
    parameters: int
    frame_rate: float
    """Frames in a second."""
    depth: int
    width: int
    probes: dict[str, Probed] = field(default_factory=dict)
    """By name of the task."""
    metrics: dict[str, str] = field(default_factory=dict)
    """Names of their error rates."""
    abx: list[LayerAbx] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wall_seconds: float = 0.0

    def best_layer(self, task: str) -> ProbeScore:
        """Returns the single layer with the lowest loss on the dev set."""
        return min((row for row in self.probes[task].rows if not row.is_weighted_sum), key=lambda row: row.dev_loss)

    def weighted_sum(self, task: str) -> ProbeScore | None:
        """Returns the probe on the weighted sum of all layers; None for an encoder of one layer."""
        return next((row for row in self.probes[task].rows if row.is_weighted_sum), None)

    def as_json(self) -> dict[str, Any]:
        described = {key: getattr(self, key) for key in ("name", "kind", "parameters", "frame_rate", "depth", "width")}
        tasks = {}
        for task, probed in self.probes.items():
            mixed = self.weighted_sum(task)
            tasks[task] = {
                "metric": self.metrics[task], "constant_error": probed.constant_error,
                "best_layer": self.best_layer(task).as_json(), "weighted_sum": mixed and mixed.as_json(),
                "rows": [row.as_json() for row in probed.rows],
            }  # fmt: skip
        rest = {"abx": [row.as_json() for row in self.abx], "notes": self.notes, "wall_seconds": round(self.wall_seconds)}
        return described | {"path": str(self.path)} | tasks | rest


def measure(name: str, path: Path, material: Material, progress: Progress) -> Measured:
    """Opens an encoder and measures it.

    Args:
        name: name of the row.
        path: see ``encoders.opening.open_encoder``.
        material: what it is measured on.
        progress: shows what is done.

    Raises:
        ValueError: the encoder cannot be opened or read, or does not fit into memory.
    """
    began = time.monotonic()
    encoder = open_encoder(path)
    found = Measured(name, path, encoder.kind, encoder.num_parameters, 1 / encoder.times.step, encoder.depth, encoder.width)
    _measure(encoder, found, material, progress)
    found.wall_seconds = time.monotonic() - began
    return found


def _measure(encoder: LayeredEncoder, found: Measured, material: Material, progress: Progress) -> None:
    layers = list(range(1, encoder.depth + 1))
    representations = {PRETRAINED: Representation(encoder, layers)}
    speech = material.speech(encoder.sample_rate)
    check_fits(representations, speech.values())
    advance = progress.start(f"{found.name}: outputs of the layers", sum(one.seconds for one in speech.values()))
    outputs, found.notes = read_outputs(representations, speech, material.workers, advance)
    if material.aligned is not None:
        found.abx, notes = score_layers(
            outputs, material.aligned, PRETRAINED, layers, material.unit, encoder.device, progress
        )
        found.notes += notes
    for sets, task in material.tasks:
        probed = train_probes(outputs, sets, task, representations, material.training, progress)
        found.probes[task.name], found.metrics[task.name] = probed, task.metric
        found.notes += probed.notes
