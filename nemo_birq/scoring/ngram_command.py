"""Command ``birq estimate-ngram``: a small n-gram language model as an ARPA file."""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.terminal import Terminal
from nemo_birq.utils.text_files import read_text


def read_texts(path: Path) -> list[str]:
    """Returns the texts of a manifest, or the lines of a text file.

    Raises:
        ValueError: the file is not in UTF-8, or a line of a manifest has no text.
    """
    from nemo_birq.finetuning.transcripts import read_transcripts

    if path.suffix in (".json", ".jsonl"):
        return [transcript.text for transcript in read_transcripts(str(path))]
    try:
        return [line for line in read_text(path).splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8 ({error}): convert it with iconv -t UTF-8") from error


@command("estimate-ngram")
@options.argument("texts", "manifests (.json, .jsonl) or text files", type=PATH, nargs=-1, required=True, metavar="TEXT...")
@options.out_option("Output ARPA file.", required=True)
@options.option("--order", type=int, help="Order n; by default 3 for words, 6 for tokens.")
@options.option("--tokens-of", type=PATH, metavar="NEMO", help="Recognizer whose tokens are modelled instead of words.")
@options.normalization_option()
def estimate_ngram(
    texts: tuple[Path, ...], out: Path, order: int | None, tokens_of: Path | None, normalization: str
) -> None:
    """Estimates a small n-gram language model from transcripts, and writes an ARPA file for birq score --lm.

        birq estimate-ngram train.json --out words.arpa
        birq estimate-ngram train.json --out tokens.arpa --tokens-of model.nemo --order 6

    The inputs are manifests, or text files with one sentence per line. All texts are in memory; for more than a few million
    words use KenLM's lmplz. Texts are normalized as in birq score.
    """
    from nemo.collections.asr.parts.submodules.ctc_beam_decoding import DEFAULT_TOKEN_OFFSET
    from nemo.utils import logging

    from nemo_birq.scoring.ngram_estimation import estimate, write_arpa
    from nemo_birq.scoring.normalization import normalize
    from nemo_birq.scoring.recognizers import open_recognizer
    from nemo_birq.scoring.tokens import token_ids

    if out.exists():
        raise ValueError(f"{out} exists: give another file with --out")
    logging.setLevel(logging.ERROR)
    lines = normalize([text for path in texts for text in read_texts(path)], normalization).texts
    if tokens_of:
        model = open_recognizer(tokens_of, "cpu")
        sentences = [[chr(token + DEFAULT_TOKEN_OFFSET) for token in token_ids(model, line)] for line in lines]
    else:
        sentences = [line.split() for line in lines]
    ngrams = estimate(sentences, order or (6 if tokens_of else 3))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_arpa(ngrams, out)
    sizes = ", ".join(f"{len(of_length):,} {length}-grams" for length, of_length in enumerate(ngrams, start=1))
    Terminal().print(f"{out}: {sizes} of {len(sentences):,} sentences", soft_wrap=True)
