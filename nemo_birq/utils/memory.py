"""Checks that data fit into the memory of this machine."""

import os
from pathlib import Path

MEMORY_SHARE = 0.7
"""Share of the machine's memory that data held at once may take."""


LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of a container, for both versions of control groups."""


def total_memory_bytes() -> int:
    """Returns the memory of this machine in bytes, or the limit of its container."""
    sizes = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in LIMITS:
        try:
            sizes.append(int(path.read_text()))
        except (OSError, ValueError):  # the file does not exist, or holds "max"
            continue
    return min(sizes)


def check_room(
    seconds: float, bytes_per_second: float, content: str, share: float = MEMORY_SHARE,
    remedy: str = "use less audio, drawn at random: --hours {hours}",
) -> None:  # fmt: skip
    """Checks that data of a given size per second of audio fit into memory.

    Args:
        seconds: duration of the audio.
        bytes_per_second: bytes kept for each second of audio.
        content: name of the data, for the message.
        share: share of the machine's memory that may be used.
        remedy: advice for the message, in which ``{hours}`` becomes the hours that fit.

    Raises:
        ValueError: the data do not fit; the message says how many hours do.
    """
    room = share * total_memory_bytes()
    if seconds * bytes_per_second > room:
        hours = int(10 * room / bytes_per_second / 3600) / 10
        raise ValueError(
            f"{content} for {seconds / 3600:.1f} h need {seconds * bytes_per_second / 2**30:.0f} GiB of memory; there is "
            f"room for {hours} h: {remedy.format(hours=hours)}"
        )
