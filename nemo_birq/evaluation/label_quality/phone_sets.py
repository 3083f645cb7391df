"""Names of phones: ARPAbet in any of the forms that aligners write, or another phone set unchanged."""

import re
from collections.abc import Iterable

SILENCE = "SIL"
SILENCES = {"", "SIL", "SP", "SPN", "<EPS>"}  # as aligners name silence, in upper case
VOWELS = {"AA", "AE", "AH", "AO", "AW", "AX", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW"}
CONSONANTS = {"B", "CH", "D", "DH", "F", "G", "HH", "JH", "K", "L", "M", "N", "NG", "P", "R", "S", "SH", "T", "TH"}
CONSONANTS |= {"V", "W", "Y", "Z", "ZH"}
ARPABET = VOWELS | CONSONANTS | {SILENCE}

_POSITION = re.compile(r"_[BIES]$")


def phone_name(label: str) -> str:
    """Maps ``AH0``, ``AH1_B`` and ``ah1`` to ``AH``; ``sp``, ``spn``, ``<eps>`` and the empty label to ``SILENCE``.

    All other labels are unchanged.
    """
    bare = re.sub(r"(?<=[A-Z])[012]$", "", _POSITION.sub("", label.strip().upper()))
    if bare in SILENCES:
        return SILENCE
    return bare if bare in ARPABET else label.strip()


def phone_names(labels: Iterable[str]) -> dict[str, str]:
    """Returns the name of each label of one phone set, by label.

    Lower case is ARPAbet only if the whole set is in lower case, because X-SAMPA has ``s`` as in sea and ``S`` as in she.
    """
    names = {label: phone_name(label) for label in labels}
    spoken = [label for label, name in names.items() if name != SILENCE]
    if all(_is_lower_case(label) and names[label] in ARPABET for label in spoken):
        return names
    return {label: label.strip() if name != SILENCE and _has_lower_case(label) else name for label, name in names.items()}


def _is_lower_case(label: str) -> bool:
    return _POSITION.sub("", label.strip()).islower()


def _has_lower_case(label: str) -> bool:
    return _POSITION.sub("", label.strip()) != _POSITION.sub("", label.strip()).upper()
