"""The golden curves: losses of seeded 200-step runs of a small model, in float64, which only a change of the method changes.

    python -m tests.helpers.golden_run    # writes tests/golden/curves.json; only after a change that is meant to change them

The file that is kept was made before the losses were fused, by the plain formulas under the same random numbers: the test
also says that fused training is plain training. In float64 rounding differs by 1e-16 from machine to machine; the learning
rate is low because with the gradient through the labels such a difference grows tenfold every ten steps at a higher one.
The features are made here, because NeMo's preprocessor computes in float32.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from nemo_birq import BiRQModel
from tests.helpers.models import make_model
from tests.helpers.paths import ROOT

GOLDEN = ROOT / "tests" / "golden" / "curves.json"
STEPS, EVERY = 200, 10
GRADIENTS = {"no gradient through the labels": 0.0, "gradient through the labels": 1.0}
CURVES = "anchor_loss", "enhanced_loss", "gradient_norm"  # clipping and AdamW hide the length of the gradient


def make_features(seed: int) -> tuple[Tensor, Tensor]:
    """Four utterances of up to 96 frames: (4, 20, 96) float64, normalized per feature, zero in the padding; lengths (4,).

    Smooth in time, as speech is, and one of a few shapes at each moment, so that there is something to learn.
    """
    draw = torch.Generator().manual_seed(1000 + seed)
    shapes = torch.randn(6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([96, 88, 80, 64])
    kinds = torch.randint(len(shapes), (4, 4), generator=draw).repeat_interleave(24, dim=1)
    features = shapes[kinds] + 0.1 * torch.randn(4, 96, 20, dtype=torch.float64, generator=draw)
    result = torch.zeros(4, 20, 96, dtype=torch.float64)
    for row, utterance, length in zip(result, features, lengths.tolist(), strict=True):
        inside = utterance[:length].T
        row[:, :length] = (inside - inside.mean(dim=1, keepdim=True)) / inside.std(dim=1, keepdim=True)
    return result, lengths


def run(
    label_gradient: float,
    steps: int = STEPS,
    speed_up: Callable[[BiRQModel], None] = lambda model: None,
    fused: bool = False,
    **changes: object,
) -> dict[str, list[float]]:
    """Losses in nats and length of the gradient, means of every 10 steps of AdamW from the same weights on the same data.

    Args:
        label_gradient: as in the configuration.
        steps: of the training.
        speed_up: changes the way in which the model computes.
        fused: of AdamW.
        changes: of the configuration, which must not change the method.
    """
    changes = {"birq__labels__label_gradient": label_gradient, "encoder__n_layers": 2, "birq__labels__layer": 1} | changes
    model = make_model(**changes).double().train()
    speed_up(model)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-4, fused=fused)
    health = model.monitor.training_log.health
    curves: dict[str, list[float]] = {name: [] for name in CURVES}
    norms: list[float] = []
    for step in range(steps):
        features, lengths = make_features(step)
        generator = torch.Generator().manual_seed(step)
        mask = model.masking.draw(lengths, features.shape[2], generator)
        losses = model.losses_of_features(features, lengths, mask, model.schedule.full, generator, over_ranks=False)
        health.update(**losses.health)
        optimizer.zero_grad()
        losses.loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        if (step + 1) % EVERY == 0:
            metrics = health.compute()
            metrics["gradient_norm"] = sum(norms[-EVERY:]) / EVERY
            for name in CURVES:
                curves[name].append(metrics[name])
            health.reset()
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=GOLDEN)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {kind: run(gradient) for kind, gradient in track(GRADIENTS.items(), description=f"{STEPS} steps each")}
    about = {"steps": STEPS, "mean_of_steps": EVERY, "unit": "nats", "torch": torch.__version__, "curves": found}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(about, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    main()
