"""The check before whole utterances pass through an encoder."""

from collections.abc import Sequence

from nemo.core import ModelPT

from nemo_birq.data.longest import find_longest
from nemo_birq.extraction.data import SpeechData
from nemo_birq.modules.attention_memory import check_attention_fits

REMEDY = (
    "Leave what is longer than {seconds} s out of the manifest, or cut it: birq make-shards cuts recordings at "
    "--max-duration"
)


def check_longest(model: ModelPT, data: SpeechData, rows: Sequence[int] | None = None) -> None:
    """Checks that the longest utterance has room in the memory of the model's device.

    Args:
        model: with preprocessor and encoder.
        data: utterances.
        rows: numbers of those that are used; None: all.

    Raises:
        ValueError: it has not; the message names it.
    """
    longest = find_longest(data.indexes, rows)
    check_attention_fits(model, longest.name, longest.seconds, REMEDY)
