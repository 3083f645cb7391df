"""Manifests whose texts are phones, a letter each, so that fine-tuning learns to recognize phones.

    python -m benchmarks.phone_transcripts CORPUS OUT

CORPUS has pretrain.jsonl, dev.jsonl and test.jsonl of speechocean762 (docs/experiments.md), whose key ``phones`` lists the
ARPAbet phones of each word. OUT gets manifests of the same names over the same audio. Stress and word boundaries are left
out, so that the character error rate of these texts is the phone error rate.
"""

from pathlib import Path

import click

from nemo_birq.data.json_lines import to_line
from nemo_birq.data.manifests import read_manifest
from nemo_birq.utils.files import write_text

PHONES = "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
LETTERS = "abcdefghijklmnopqrstuvwxyzαβγδεζηθικλμν"
"""A letter for each phone, lower-case and without accents, because NeMo's parsers change other letters."""
LETTER_OF = dict(zip(PHONES.split(), LETTERS, strict=True))
MANIFESTS = ("pretrain.jsonl", "dev.jsonl", "test.jsonl")


def spell(words: list[list[str]]) -> str:
    """Spells the phones of an utterance, listed for each word, as letters.

    Raises:
        KeyError: a phone that ARPAbet does not have.
    """
    return "".join(LETTER_OF[phone.rstrip("012")] for word in words for phone in word)


@click.command()
@click.argument("corpus", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
def main(corpus: Path, out: Path) -> None:
    """Writes manifests over the audio of CORPUS to OUT, with phones as texts."""
    out.mkdir(parents=True, exist_ok=True)
    for name in MANIFESTS:
        lines = read_manifest(str(corpus / name))
        changed = [
            line | {"audio_filepath": str((corpus / line["audio_filepath"]).resolve()), "text": spell(line["phones"])}
            for line in lines
        ]
        write_text(out / name, "".join(map(to_line, changed)))
        click.echo(f"{out / name}: {len(changed)} utterances, {sum(len(line['text']) for line in changed):,} phones")


if __name__ == "__main__":
    main()
