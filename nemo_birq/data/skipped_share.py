"""The rule for what of a dataset cannot be used: it is named and left out, unless it is too much."""

from collections.abc import Sequence

from nemo.utils import logging

from nemo_birq.utils.terminal import printable

MAX_SKIPPED_SHARE = 0.05  # default of max_skipped_share
MAX_SHOWN = 5  # problems in an error; the log names each


def check_skipped_share(manifest: str, problems: Sequence[str], num_lost: int, total: int, max_skipped_share: float) -> None:
    """Names the lines, members and files of a dataset that are left out in the log.

    Args:
        manifest: path or pattern that names the dataset.
        problems: a sentence for each, which names file and line; perhaps the first ones only.
        num_lost: utterances that cannot be used.
        total: all utterances.
        max_skipped_share: of ``total`` that may be lost.

    Raises:
        ValueError: more is lost.
    """
    if not problems:
        return
    message = f"{num_lost} of {total} utterances of {manifest} cannot be used"
    if num_lost > max_skipped_share * total:
        shown = "\n  ".join([*problems[:MAX_SHOWN], *(["..."] if len(problems) > MAX_SHOWN else [])])
        raise ValueError(
            f"{message}:\n  {shown}\nMore than max_skipped_share={max_skipped_share} of them: repair the data, or set it "
            "higher"
        )
    logging.warning(printable("\n  ".join([f"{message}, and are left out:", *problems])))
