"""Names of the members of tar shards: unique, without folders and special characters."""

import hashlib
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nemo_birq.data.shards.segments import BuildError

MAX_NAME_LENGTH = 150  # characters of a member's name, which leaves room for a suffix and some characters of several bytes
_AT_ONCE = 1 << 20  # names that are compared with their neighbours at once


def flat_name(name: str) -> str:
    """Returns a name without folders and dots, because readers cut names at the first dot and NeMo drops folders.

    >>> flat_name("../b/x.1-sub2")
    'b_x_1_sub2'
    """
    flat = re.sub(r"[^\w-]", "_", "/".join(part for part in name.split("/") if part not in ("", ".", "..")))
    # NeMo treats name-sub1 as the first segment of a member called name.
    return re.sub(r"-sub(?=\d)", "_sub", flat) or "_"


def member_name(name: str, identity: str, suffix: str, apart: bool = False) -> str:
    """Returns the name of a member. If it is long or ``apart``, part of a hash of the identity is appended."""
    flat = flat_name(name)
    if apart or len(flat) > MAX_NAME_LENGTH:
        flat = f"{flat[:MAX_NAME_LENGTH]}-{hashlib.sha256(identity.encode(errors='surrogateescape')).hexdigest()[:10]}"
    return flat + suffix


class SortedNames(NamedTuple):
    """Names of members."""

    names: pa.LargeStringArray
    order: np.ndarray
    """(N,) int32, their numbers in the order of the names."""


def sort_names(names: pa.LargeStringArray, apart: Callable[[np.ndarray], list[str]]) -> SortedNames:
    """Sorts names, and replaces all names that occur more than once by those of ``apart``.

    The name of one member does not depend on the order of the others.

    Args:
        names: N names.
        apart: returns other names of the members with given numbers.

    Raises:
        BuildError: two names are still equal.
    """
    found = SortedNames(names, _order(names))
    if len(same := _repeated(found)):
        is_same = np.zeros(len(names), bool)
        is_same[same] = True
        names = pc.replace_with_mask(names, pa.array(is_same), pa.array(apart(same), pa.large_string()))
        found = SortedNames(names, _order(names))
        if len(same := _repeated(found)):
            raise BuildError(f"two members would be called {names[same[0]]}; rename one of their files")
    return found


def _order(names: pa.LargeStringArray) -> np.ndarray:
    return pc.sort_indices(names).to_numpy().astype(np.int32)  # the order of bytes in UTF-8 is that of characters


def _repeated(sorted_names: SortedNames) -> np.ndarray:
    """Returns the numbers of all names that occur more than once, in ascending order."""
    names, order = sorted_names
    found = [np.zeros(0, np.int32)]
    for first in range(0, len(order), _AT_ONCE):
        rows = order[first : first + _AT_ONCE + 1]
        values = names.take(pa.array(rows))
        same = np.flatnonzero(pc.equal(values[1:], values[:-1]).to_numpy(zero_copy_only=False))
        found += [rows[same], rows[same + 1]]
    return np.unique(np.concatenate(found))
