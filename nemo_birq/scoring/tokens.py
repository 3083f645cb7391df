"""The tokens that a recognizer writes, in the order of its outputs."""

from nemo.collections.asr.models import ASRModel


def vocabulary(model: ASRModel) -> list[str]:
    """Returns the tokens of a CTC, RNNT or hybrid model, without the blank."""
    if hasattr(model, "tokenizer"):
        return model.tokenizer.ids_to_tokens(list(range(model.tokenizer.vocab_size)))
    for decoder in (getattr(model, "ctc_decoder", None), model.decoder, model.joint if hasattr(model, "joint") else None):
        if hasattr(decoder, "vocabulary"):
            return list(decoder.vocabulary)
    raise ValueError(f"{type(model).__name__} names no vocabulary")


def token_ids(model: ASRModel, text: str) -> list[int]:
    """Returns the numbers of the tokens of a text in the vocabulary.

    Raises:
        ValueError: a character that the model has no token for.
    """
    if hasattr(model, "tokenizer"):
        return model.tokenizer.text_to_ids(text)
    places = {token: place for place, token in enumerate(vocabulary(model))}
    missing = sorted(set(text) - places.keys())
    if missing:
        raise ValueError(f"the recognizer has no token for {', '.join(map(repr, missing))}, as in {text!r}")
    return [places[sign] for sign in text]
