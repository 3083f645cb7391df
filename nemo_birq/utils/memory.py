"""Checks of what fits into the memory of this machine."""

import os
from pathlib import Path

MEMORY_SHARE = 0.7
"""Share of the machine's memory that data held at once may take."""


LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the limit of a container, of both versions of control groups."""


def total_memory_bytes() -> int:
    """Returns the size of this machine's memory, or of what its container may use of it."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in LIMITS:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # none of this version, or "max"
            continue
    return min(sizes)


def check_room(
    seconds: float, bytes_per_second: float, content: str, share: float = MEMORY_SHARE,
    remedy: str = "take less audio, drawn at random: --hours {hours}",
) -> None:  # fmt: skip
    """Checks that something kept for each second of audio fits into memory.

    Args:
        seconds: of audio.
        bytes_per_second: kept for each second of audio.
        content: named in the message.
        share: of the machine's memory that may be used.
        remedy: named in the message, where ``{hours}`` becomes the hours that fit.

    Raises:
        ValueError: it does not fit; the message names how many hours do.
    """
    room = share * total_memory_bytes()
    if seconds * bytes_per_second > room:
        hours = int(10 * room / bytes_per_second / 3600) / 10
        raise ValueError(
            f"{content} for {seconds / 3600:.1f} h need {seconds * bytes_per_second / 2**30:.0f} GiB of memory; there is "
            f"room for {hours} h: {remedy.format(hours=hours)}"
        )
