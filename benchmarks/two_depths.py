"""Targets at two depths: the anchor labels are predicted from a middle layer, the enhanced labels from the last one.

    python -m benchmarks.two_depths 4 --seed 0 --out docs/results/two_depths.json
    python -m benchmarks.two_depths 2 --seed 0 --out docs/results/two_depths.json

The first argument is the layer whose output predicts the anchor labels; 4, the last layer, is BiRQ. Each command trains the
tiny configuration with objective=tracked on the embedded corpus, and adds a row to the file with what the layers know of the
phones of the validation set: PNMI above chance of their k-means clusters.
"""

from pathlib import Path

import click
import torch
from hydra import compose, initialize_config_dir

from benchmarks.label_gradient import CORPUS, ROOT, load, train
from nemo_birq import BiRQModel
from nemo_birq.evaluation.label_quality.evaluation import evaluate
from nemo_birq.evaluation.label_quality.utterances import read_utterances
from nemo_birq.losses.bilevel import Losses, Weights
from nemo_birq.utils.files import read_json, write_json
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal

VALIDATION = CORPUS.parent / "validation"
LAYERS = 4
console = Terminal()


class TwoDepths(BiRQModel):
    """BiRQ whose anchor head reads the layer ``anchor_layer`` of the masked pass."""

    anchor_layer = LAYERS

    def losses_of_features(self, features, lengths, mask, weights, *args, **options) -> Losses:
        outputs = []
        layer = self.encoder.layers[self.anchor_layer - 1]
        hook = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
        try:
            top = super().losses_of_features(features, lengths, mask, Weights(weights.enhanced, 0.0), *args, **options)
        finally:
            hook.remove()
        middle = outputs[-1]  # (B, T', D) of the masked pass, which comes last
        frames = self.masked_frames(mask, middle.shape[1])
        own = {"hidden": middle.flatten(0, 1)[frames], "targets": None, "enhanced_weight": 0.0}
        loss, found = self.bilevel_loss(**top.terms | own | {"anchor_weight": weights.anchor})
        health = top.health | {"found": top.health["found"]._replace(anchor=found.anchor)}
        return Losses(top.loss + loss, health, top.terms)


def build(anchor_layer: int, seed: int) -> TwoDepths:
    """Returns the tiny model with tracked codes of layer 1, and w1 from step 75 on."""
    overrides = ["objective=tracked", "model.birq.labels.layer=1", "enhanced_start_step=75", "enhanced_ramp_steps=50"]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg = compose("birq_conformer_tiny", overrides=overrides)
    cfg.model.train_ds = cfg.model.validation_ds = None
    torch.manual_seed(seed)
    model = TwoDepths(cfg.model)
    model.anchor_layer = anchor_layer
    return model


@click.command(help=__doc__)
@click.argument("anchor_layer", type=click.IntRange(1, LAYERS))
@click.option("--steps", type=int, default=450, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the weights.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file to which the row is added.")
def main(anchor_layer: int, steps: int, seed: int, out: Path | None) -> None:
    model = build(anchor_layer, seed)
    trained = train(model, load(read_utterances(str(CORPUS), str(CORPUS / "phones.ctm")), model.sample_rate), steps)
    utterances = read_utterances(str(VALIDATION / "validation.json"), str(VALIDATION / "phones.ctm"))
    with ProgressBars(transient=True) as progress:
        found = evaluate(model.eval(), utterances, progress)
    row = {"anchor_layer": anchor_layer, "steps": steps, "seed": seed} | {k: round(v, 3) for k, v in trained.items()}
    row["enhanced_above_chance"] = round(found.of("enhanced")[0].quality.above_chance, 3)
    row["kmeans_above_chance"] = [round(score.quality.above_chance, 3) for score in found.of("kmeans")]
    console.print(row)
    if out is not None:
        rows = read_json(out)["rows"] if out.exists() else []
        kept = [known for known in rows if (known["anchor_layer"], known["seed"]) != (anchor_layer, seed)]
        write_json(out, {"command": "python -m benchmarks.two_depths LAYER --seed SEED", "rows": [*kept, row]})


if __name__ == "__main__":
    main()
