"""The vocabulary of a recognizer, in the order of its outputs."""

from collections.abc import Iterable

from nemo.collections.asr.models import ASRModel

from nemo_birq.scoring.normalization import APOSTROPHES


def vocabulary(model: ASRModel) -> list[str]:
    """Returns the tokens of a CTC, RNNT or hybrid model, without the blank."""
    if hasattr(model, "tokenizer"):
        return model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size)))
    for decoder in (getattr(model, "ctc_decoder", None), model.decoder, model.joint if hasattr(model, "joint") else None):
        if hasattr(decoder, "vocabulary"):
            return list(decoder.vocabulary)
    raise ValueError(f"{type(model).__name__} has no vocabulary: use a CTC, RNNT or hybrid model")


def with_own_apostrophes(text: str, tokens: Iterable[str]) -> str:
    """Replaces apostrophes outside of the vocabulary by the one in the vocabulary, if any."""
    held = set("".join(tokens))
    own = next((sign for sign in APOSTROPHES if sign in held), None)
    return text if own is None else "".join(own if sign in APOSTROPHES and sign not in held else sign for sign in text)


def token_ids(model: ASRModel, text: str) -> list[int]:
    """Returns the numbers of the tokens of a text in the vocabulary.

    Raises:
        ValueError: the model has no token for a character.
    """
    tokens = vocabulary(model)
    text = with_own_apostrophes(text, tokens)
    if hasattr(model, "tokenizer"):
        return model.tokenizer.text_to_ids(text)
    places = {token: place for place, token in enumerate(tokens)}
    missing = sorted(set(text) - places.keys())
    if missing:
        raise ValueError(
            f"the recognizer has no token for {', '.join(map(repr, missing))}, as in {text!r}: remove or "
            "replace these characters"
        )
    return [places[sign] for sign in text]
