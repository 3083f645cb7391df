"""Converts Lhotse's recordings, supervisions and cuts to segments."""

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut, MonoCut, MultiCut

from nemo_birq.data.shards.cut import clipped
from nemo_birq.data.shards.segments import Segment, Skipped, Spoken


def source_of(recording: Recording, channels: list[int]) -> tuple[str, tuple[int, ...] | None] | None:
    """Returns the file with these channels of a recording, and their numbers in it (None: all); None without such a file."""
    for source in recording.sources:
        if source.type == "file" and set(channels) <= set(source.channels):
            if recording.transforms:
                return None
            every = len(channels) == len(source.channels)
            return str(source.source), None if every else tuple(source.channels.index(channel) for channel in channels)
    return None


def keys_of(supervision: SupervisionSegment) -> dict:
    """Returns the manifest keys of a supervision."""
    keys = {
        "text": supervision.text,
        "speaker": supervision.speaker,
        "gender": supervision.gender,
        "lang": supervision.language,
    } | (supervision.custom or {})
    return {key: value for key, value in keys.items() if isinstance(value, str | int | float | bool | list | dict)}


def segment_of_supervision(supervision: SupervisionSegment, recording: Recording) -> Segment | Skipped:
    """Returns the segment of one utterance of a recording."""
    channels = supervision.channel if isinstance(supervision.channel, list) else [supervision.channel]
    source = source_of(recording, channels)
    if source is None:
        return Skipped(supervision.id, "unsupported", f"channels {channels} of {recording.id} are not in one audio file")
    path, positions = source
    start, duration = supervision.start, supervision.duration
    return Segment(path, supervision.id, supervision.id, start, duration, positions, keys_of(supervision))


def segment_of_cut(cut: Cut) -> Segment | Skipped:
    """Returns the segment of a cut, which may be cut further between its supervisions if it is too long."""
    if not isinstance(cut, MonoCut | MultiCut) or not cut.has_recording:
        return Skipped(cut.id, "unsupported", f"a {type(cut).__name__} is not a part of one recording: save its audio first")
    source = source_of(cut.recording, cut.channel if isinstance(cut.channel, list) else [cut.channel])
    if source is None:
        return Skipped(cut.id, "unsupported", "its recording is not an audio file: save it first (CutSet.save_audios)")
    path, positions = source
    inside = [s for s in cut.supervisions if s.start < cut.duration and s.end > 0]
    spoken = tuple(Spoken(cut.start + s.start, cut.start + s.end, s.text or "") for s in inside)
    line = (cut.custom or {}) | _common_keys(inside)
    if any(part.text is None for part in clipped(spoken, cut.start, cut.start + cut.duration, cut.recording.duration)):
        line.pop("text", None)  # it is unknown which words of a supervision that ends outside are in the cut
    line = {key: value for key, value in line.items() if isinstance(value, str | int | float | bool | list | dict)}
    return Segment(path, cut.id, cut.id, cut.start, cut.duration, positions, line, spoken)


def _common_keys(supervisions: list[SupervisionSegment]) -> dict:
    """Returns the keys with the same value in all supervisions, and their joined texts."""
    keys = [keys_of(supervision) for supervision in supervisions]
    common = {key: value for key, value in keys[0].items() if all(k.get(key) == value for k in keys)} if keys else {}
    texts = [k["text"] for k in keys if "text" in k]
    return common | ({"text": " ".join(texts)} if texts else {})
