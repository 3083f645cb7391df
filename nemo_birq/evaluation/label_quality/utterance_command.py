"""``birq show-utterance``, which draws one utterance with mask, labels and predictions."""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import command
from nemo_birq.utils.terminal import printable


@command("show-utterance")
@options.model_argument(".nemo, or .ckpt of a training run")
@options.data_argument()
@options.tars_option()
@options.option("--utterance", required=True, help="Name of its audio file, without suffix.")
@options.alignments_option()
@options.seed_option("Seed of the mask.")
@options.out_option("PNG file, or folder for the picture; default: the folder of the model.")
def show_utterance(
    model: Path, data: str, tars: str | None, utterance: str, alignments: Path | None, seed: int, out: Path | None
) -> None:
    """Draws the spectrogram, mask, labels, and predictions at masked frames of one utterance.

        birq show-utterance model.nemo tarred_manifests/validation/validation.json \\
            --utterance spk024-validation-00001 --alignments tarred_manifests/validation/phones.ctm

    The picture is <utterance>.png, or the file that --out names.
    """
    from nemo.utils import logging

    from nemo_birq.evaluation.label_quality.alignments import Alignments, read_alignments
    from nemo_birq.evaluation.label_quality.utterance_picture import draw_utterance
    from nemo_birq.evaluation.label_quality.utterance_view import view_utterance
    from nemo_birq.evaluation.label_quality.utterances import open_speech
    from nemo_birq.loading import load_model

    logging.setLevel(logging.WARNING)
    opened = load_model(model)
    speech = open_speech(data, tars)
    if utterance not in speech.lines:
        raise ValueError(f"{data} has no utterance {utterance}; it has for example {min(speech.lines)}")
    found = read_alignments(alignments, {utterance}) if alignments else Alignments({}, {}, set())
    phones, words = found.phones.get(utterance, []), found.words.get(utterance, [])
    view = view_utterance(opened, speech, utterance, phones, words, seed)
    path = out if out and out.suffix.lower() == ".png" else (out or model.parent) / f"{utterance}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_utterance(view, path)
    print(printable(path))
