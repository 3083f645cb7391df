"""The rule for utterances that cannot be used: they are logged and left out, unless there are too many."""

from collections.abc import Sequence

from nemo.utils import logging

from nemo_birq.utils.terminal import printable

MAX_SKIPPED_SHARE = 0.05  # default of max_skipped_share
MAX_SHOWN = 5  # problems in an error; the log names each


def check_skipped_share(manifest: str, problems: Sequence[str], num_lost: int, total: int, max_skipped_share: float) -> None:
    """Logs the lines, members and files of a dataset that are left out.

    Args:
        manifest: path or pattern that names the dataset.
        problems: one sentence for each, with file and line; perhaps only the first ones.
        num_lost: number of utterances that cannot be used.
        total: number of all utterances.
        max_skipped_share: share of ``total`` that may be lost.

    Raises:
        ValueError: more utterances are lost.
    """
    if not problems:
        return
    message = f"{num_lost} of {total} utterances of {manifest} cannot be used"
    if num_lost > max_skipped_share * total:
        shown = "\n  ".join([*problems[:MAX_SHOWN], *(["..."] if len(problems) > MAX_SHOWN else [])])
        raise ValueError(
            f"{message}:\n  {shown}\nThis is more than max_skipped_share={max_skipped_share}: repair the data, or raise "
            "max_skipped_share"
        )
    logging.warning(printable("\n  ".join([f"{message}, and are left out:", *problems])))
