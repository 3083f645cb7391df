"""Names of tar members: unique, flat and harmless."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

LONGEST = 150  # characters; with the suffix below what file systems take, even of four bytes each in part


def flat_name(name: str) -> str:
    """A name without folders and dots: readers of tar shards cut names at the first dot, and NeMo drops folders.

    >>> flat_name("../b/x.1-sub2")
    'b_x_1_sub2'
    """
    flat = re.sub(r"[^\w-]", "_", "/".join(part for part in name.split("/") if part not in ("", ".", "..")))
    # NeMo takes name-sub1 for the first segment of a member called name.
    return re.sub(r"-sub(?=\d)", "_sub", flat) or "_"


def member_names(names: Iterable[tuple[str, str]], suffix: str) -> list[str]:
    """Names of members for pairs of a name and an identity. Where flat names would meet, part of a hash keeps them apart.

    The result for one pair does not depend on the order of the others.
    """
    pairs = [(flat_name(name), identity) for name, identity in names]
    taken = Counter(flat for flat, _ in pairs)
    members = []
    for flat, identity in pairs:
        if taken[flat] > 1 or len(flat) > LONGEST:
            flat = f"{flat[:LONGEST]}-{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:10]}"
        members.append(flat + suffix)
    return members
