"""One utterance as the model sees it: spectrogram, mask, labels, and what it predicts under the mask.

    python scripts/show_utterance.py model.nemo --manifest tarred_manifests/validation/validation.json \
        --utterance spk024-validation-00001 --alignments tarred_manifests/validation/phones.ctm

Writes <utterance>.png beside the model, or to --out. Another --seed draws another mask.
"""

import argparse
import sys
from pathlib import Path

from nemo.utils import logging

from nemo_birq.evaluation.label_quality.alignments import Alignments, read_alignments
from nemo_birq.evaluation.label_quality.utterance_picture import draw_utterance
from nemo_birq.evaluation.label_quality.utterance_view import view_utterance
from nemo_birq.evaluation.label_quality.utterances import open_speech
from nemo_birq.loading import load_model


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help=".nemo, or .ckpt of a training run")
    parser.add_argument("--manifest", type=Path, required=True, help="manifest of single audio files")
    parser.add_argument("--utterance", required=True, help="name of its audio file, without suffix")
    parser.add_argument("--alignments", type=Path, help="CTM file, or folder of TextGrid files")
    parser.add_argument("--seed", type=int, default=0, help="of the mask (default 0)")
    parser.add_argument("--out", type=Path, help="folder for the picture (default: that of the model)")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    logging.setLevel(logging.WARNING)
    model = load_model(args.model)
    speech = open_speech(args.manifest)
    name = args.utterance
    if name not in speech.lines:
        raise ValueError(f"manifest {args.manifest} has no utterance {name}; it has for example {min(speech.lines)}")
    found = read_alignments(args.alignments, {name}) if args.alignments else Alignments({}, {}, 0)
    view = view_utterance(model, speech, name, found.phones.get(name, []), found.words.get(name, []), args.seed)
    path = (args.out or args.model.parent) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_utterance(view, path)
    print(path)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"show_utterance.py: {error}")
