"""Estimates a small n-gram language model from transcripts, as an ARPA file for scripts/score.py --lm.

    python scripts/estimate_ngram.py train.json --out words.arpa
    python scripts/estimate_ngram.py train.json --out tokens.arpa --tokens-of model.nemo --order 6

Of words, or with --tokens-of of a recognizer's tokens. Takes manifests, or text files with a sentence a line; everything is
held in memory, so for more than some million words take KenLM's lmplz. Text is normalized as scripts/score.py does it.
"""

import argparse
import sys
from pathlib import Path

from nemo.collections.asr.parts.submodules.ctc_beam_decoding import DEFAULT_TOKEN_OFFSET
from nemo.utils import logging
from rich.console import Console

from nemo_birq.finetuning.transcripts import read_transcripts
from nemo_birq.scoring.ngram_estimation import estimate, write_arpa
from nemo_birq.scoring.normalization import STEPS, normalize
from nemo_birq.scoring.recognizers import open_recognizer
from nemo_birq.scoring.tokens import token_ids


def read_texts(path: Path) -> list[str]:
    """The texts of a manifest, or the lines of a text file."""
    if path.suffix in (".json", ".jsonl"):
        return [transcript.text for transcript in read_transcripts(str(path))]
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}); convert it with iconv -t UTF-8") from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="+", help="manifests (.json, .jsonl) or text files")
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    parser.add_argument("--order", type=int, help="n (default: 3 for words, 6 for tokens)")
    parser.add_argument("--tokens-of", type=Path, metavar="NEMO", help="of the tokens of this recognizer instead of words")
    parser.add_argument("--normalization", choices=STEPS, default="default")
    args = parser.parse_args()
    if args.out.exists():
        raise ValueError(f"{args.out} exists; name another file with --out")
    logging.setLevel(logging.ERROR)
    texts = normalize([text for path in args.texts for text in read_texts(path)], args.normalization).texts
    if args.tokens_of:
        model = open_recognizer(args.tokens_of, "cpu")
        sentences = [[chr(token + DEFAULT_TOKEN_OFFSET) for token in token_ids(model, text)] for text in texts]
    else:
        sentences = [text.split() for text in texts]
    ngrams = estimate(sentences, args.order or (6 if args.tokens_of else 3))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_arpa(ngrams, args.out)
    sizes = ", ".join(f"{len(of_length):,} {length}-grams" for length, of_length in enumerate(ngrams, start=1))
    Console().print(f"{args.out}: {sizes} of {len(sentences):,} sentences", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"estimate_ngram.py: {error}")
