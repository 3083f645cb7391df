"""Check that whole utterances fit into memory, before an encoder processes them."""

from collections.abc import Sequence

from nemo.core import ModelPT

from nemo_birq.data.longest import find_longest
from nemo_birq.extraction.data import SpeechData
from nemo_birq.modules.attention_memory import check_attention_fits

REMEDY = (
    "Remove utterances longer than {seconds} s from the manifest, or cut them: birq make-shards cuts recordings at "
    "--max-duration"
)


def check_longest(model: ModelPT, data: SpeechData, rows: Sequence[int] | None = None) -> None:
    """Checks that the longest utterance fits into the memory of the model's device.

    Args:
        model: model with preprocessor and encoder.
        data: utterances.
        rows: numbers of the used utterances; None: all.

    Raises:
        ValueError: the utterance does not fit; the message names it.
    """
    longest = find_longest(data.indexes, rows)
    check_attention_fits(model, longest.name, longest.seconds, REMEDY)
