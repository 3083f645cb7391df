"""Share of equal enhanced labels between training and inference, and the PNMI of both.

    python -m benchmarks.label_modes batch.nemo running.nemo --out docs/results/label_modes.json

Each model labels the validation set twice: as in training (batch normalization and statistics of layer k of the current
batch, or those of model.birq.labels.batch_norm), and as in inference. PNMI is that above chance.
"""

from collections.abc import Iterable
from pathlib import Path

import click
import torch
from torch import Tensor

from nemo_birq import BiRQModel
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.evaluation.label_quality.evaluation import phones_of_frames
from nemo_birq.evaluation.label_quality.pnmi import joint_counts, score_labels
from nemo_birq.evaluation.label_quality.utterances import Utterances, read_utterances
from nemo_birq.loading import load_model
from nemo_birq.modules.frame_times import encoder_times
from nemo_birq.modules.masking import positions, valid_frames
from nemo_birq.utils.files import write_json
from nemo_birq.utils.terminal import Terminal

ROOT = Path(__file__).parents[1]
console = Terminal()


@torch.no_grad()
def label(model: BiRQModel, batches: Iterable[SpeechBatch]) -> tuple[Tensor, Tensor, dict[str, int]]:
    """Returns the codes of all frames as in training and as in inference, (N,) each, and the frames of each utterance."""
    trained, inferred, counts = [], [], {}
    for batch in batches:
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        for is_training, codes in ((True, trained), (False, inferred)):
            model.train(is_training)
            hidden, encoded = model.label_pass(features, lengths)
            valid = valid_frames(encoded, hidden.shape[1])
            targets = model.enhanced_labeler(hidden, valid, positions(valid), torch.Generator(), update_statistics=False)
            codes.append(model.enhanced_labeler.quantizer.nearest_of_units(targets.units)[:, 0])
        counts |= zip((Path(name).stem for name in batch.ids), encoded.tolist(), strict=True)
    return torch.cat(trained), torch.cat(inferred), counts


def measure(model: BiRQModel, utterances: Utterances) -> dict[str, float]:
    """Returns the share of equal labels, and the PNMI above chance of either kind."""
    trained, inferred, counts = label(model, utterances.speech.load(model.sample_rate))
    names = sorted({item.symbol for items in utterances.alignments.phones.values() for item in items})
    phones = phones_of_frames(utterances, counts, encoder_times(model), names)
    found = {"equal": round(float((trained == inferred).float().mean()), 3)}
    for name, labels in (("pnmi_training", trained), ("pnmi_inference", inferred)):
        codes, inside = labels.numpy(), phones >= 0
        scored = score_labels(joint_counts(phones[inside], codes[inside], len(names), model.birq.quantizer.num_codes))
        found[name] = round(scored.above_chance, 3)
    return found


@click.command(help=__doc__)
@click.argument("models", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--corpus", type=click.Path(path_type=Path), default=ROOT / "tarred_manifests", help="Folder of the corpus.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the numbers.")
def main(models: tuple[Path, ...], corpus: Path, out: Path | None) -> None:
    folder = corpus / "validation"
    utterances = read_utterances(str(folder / "validation.json"), str(folder / "phones.ctm"))
    rows = []
    for path in models:
        model = load_model(path)
        rows.append({"model": path.stem, "batch_norm": model.birq.labels.batch_norm} | measure(model, utterances))
        console.print(rows[-1])
    if out is not None:
        write_json(out, {"command": "python -m benchmarks.label_modes MODELS", "rows": rows})


if __name__ == "__main__":
    main()
