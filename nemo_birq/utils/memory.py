"""Checks of what fits into the memory of this machine."""

import os

MEMORY_SHARE = 0.7
"""Share of the machine's memory that data held at once may take."""


def total_memory_bytes() -> int:
    """Returns the physical memory of this machine in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_room(seconds: float, bytes_per_second: float, content: str) -> None:
    """Checks that something kept for each second of audio fits into memory.

    Args:
        seconds: of audio.
        bytes_per_second: kept for each second of audio.
        content: named in the message.

    Raises:
        ValueError: it does not fit; the message names how many hours do.
    """
    room = MEMORY_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if seconds * bytes_per_second > room:
        raise ValueError(
            f"{content} for {seconds / 3600:.1f} h need {seconds * bytes_per_second / 2**30:.0f} GiB of memory; take fewer, "
            f"drawn at random: --hours {int(10 * room / bytes_per_second / 3600) / 10}"
        )
