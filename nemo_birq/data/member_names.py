"""Matches the names in a manifest with the members of a tar shard."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterable

from nemo_birq.data.audio.suffixes import MEDIA_SUFFIXES, SUFFIXES
from nemo_birq.data.manifests import SEGMENT

AUDIO = SUFFIXES | MEDIA_SUFFIXES
"""Suffixes of audio. A line x.wav may mean the member x.flac, but never x.json or x.txt beside it."""


def find_members(names: Iterable[str], members: Collection[str]) -> dict[str, str]:
    """Finds the member of each name of a manifest; names without a member are omitted.

    A name is that of a member, or of a segment of a member (x-sub1.wav of x.wav). If there is none, it is matched with the
    only audio member of its stem, because NeMo's --force_codec changes the suffixes of the members (x.flac) and not those
    in the manifest.
    """
    names = set(names)
    found: dict[str, str] = {}
    for name in names:
        member = name if name in members else SEGMENT.sub("", name)
        if member in members:
            found[name] = member
    missing = names - found.keys()
    if missing:
        suffixes: dict[str, set[str]] = defaultdict(set)  # of the names with each stem
        for name in names:
            for stem, suffix in map(os.path.splitext, (name, SEGMENT.sub("", name))):
                suffixes[stem].add(suffix)
        audio: dict[str, list[str]] = defaultdict(list)
        for member in members:
            stem, suffix = os.path.splitext(member)
            if suffix.lower() in AUDIO:
                audio[stem].append(member)
        for name in missing:
            for stem in (os.path.splitext(name)[0], os.path.splitext(SEGMENT.sub("", name))[0]):
                if len(audio[stem]) == 1 and len(suffixes[stem]) == 1:
                    found.setdefault(name, audio[stem][0])
    return found
