"""Vocabularies of recognizers: characters (``model.labels``) or the pieces of a SentencePiece tokenizer."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
from nemo.utils import logging
from omegaconf import DictConfig
from sentencepiece import SentencePieceProcessor

KINDS = ("unigram", "bpe")
"""Kinds of tokenizers, which SentencePiece calls model types."""


class Vocabulary(NamedTuple):
    """Functions that convert texts with a vocabulary."""

    name: str
    encode: Callable[[str], list]
    """Function that returns the labels of a text."""
    unknown: Callable[[str], str]
    """Function that returns the characters of a text outside of the vocabulary."""


def characters(labels: list[str]) -> Vocabulary:
    """Returns the vocabulary with one label for each character."""
    known = set(labels)
    return Vocabulary(
        f"model.labels ({''.join(labels)!r})",
        list,
        lambda text: "".join(character for character in text if character not in known),
    )


def pieces(folder: str) -> Vocabulary:
    """Returns the vocabulary of the tokenizer in a folder.

    Raises:
        FileNotFoundError: the folder has no tokenizer.
        ValueError: SentencePiece cannot read the tokenizer.
    """
    path = Path(folder) / "tokenizer.model"
    if not path.is_file():
        raise FileNotFoundError(
            f"model.tokenizer.dir={folder} holds no tokenizer.model: give another folder, or "
            "remove the key to train a tokenizer on the texts"
        )
    try:
        tokenizer = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is not a tokenizer of SentencePiece, or is damaged ({error}): get it again") from error

    def unknown(text: str) -> str:
        encoded = zip(tokenizer.encode(text), tokenizer.encode(text, out_type=str), strict=True)
        return "".join(piece for number, piece in encoded if number == tokenizer.unk_id()).replace("▁", "")

    return Vocabulary(f"the tokenizer {path}", tokenizer.encode, unknown)


def build_tokenizer(settings: DictConfig, texts: list[str], folder: Path) -> str:
    """Trains a SentencePiece tokenizer with NeMo's tool, once for the same texts and settings; returns its folder.

    Raises:
        ValueError: ``vocab_size`` is less than the number of different characters, or ``kind`` is unknown.
    """
    if settings.kind not in KINDS:
        raise ValueError(f"build_tokenizer.kind={settings.kind}: give one of {', '.join(KINDS)}")
    digest = hashlib.sha256("\n".join([str(settings), *texts]).encode()).hexdigest()[:8]
    target = folder / f"tokenizer_{settings.kind}_{settings.vocab_size}_{digest}"
    target.mkdir(parents=True, exist_ok=True)
    corpus, model = target / "text.txt", target / "tokenizer.model"
    with FileLock(target / ".lock"):  # one rank builds, and the others wait
        if corpus.exists() or not model.exists():  # the corpus stays until the tokenizer is complete
            corpus.write_text("\n".join(texts), encoding="utf-8")
            model.unlink(missing_ok=True)  # NeMo would keep a truncated one
            _train_tokenizer(settings, corpus, len(texts))
            corpus.unlink()
    logging.info(f"The tokenizer of {len(texts)} training texts is in {target}")
    return str(target)


def _train_tokenizer(settings: DictConfig, corpus: Path, num_texts: int) -> None:
    try:
        create_spt_model(
            str(corpus), settings.vocab_size, sample_size=-1, do_lower_case=False, tokenizer_type=settings.kind,
            output_dir=str(corpus.parent),
        )  # fmt: skip
    except RuntimeError as error:
        raise ValueError(
            f"no tokenizer of {settings.vocab_size} pieces can be trained on {num_texts} texts ({error}): set another "
            "build_tokenizer.vocab_size"
        ) from error
