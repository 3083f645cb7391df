"""Values of ``train_ds.batch_augmentor``, as in NeMo's NEST configurations."""

from typing import Annotated, Any, Literal

from pydantic import Field

from nemo_birq.utils.settings import Node, Real, Share, Whole, read, refuse

Decibel = Annotated[Real, Field(ge=-100, le=100)]
Segments = Annotated[Whole, Field(ge=1, le=100)]
KEY, NOISE, NOISE_SHARDS = "batch_augmentor", "noise_manifest", "noise_tarred_audio_filepaths"
RANGES = ("r_speech", "r_noise", "mix_rate", "num_segments", "num_speakers")


class MixingSettings(Node):
    """Noise and other speakers that are added to the input of the masked pass."""

    target: Literal[
        "nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation",
        "nemo.collections.asr.modules.ssl_modules.SpeakerNoiseAugmentation",
    ] = Field(default="nemo.collections.asr.modules.ssl_modules.MultiSpeakerNoiseAugmentation", alias="_target_")
    prob: Share = 0.0
    """Share of the utterances that are mixed."""
    noise_ratio: Share = 0.0
    """Share of the mixed utterances that get noise; the others get speech of other utterances of the batch."""
    min_r_speech: Decibel = -5.0
    """Ratio of the energy of the utterance to that of the other speech, in dB."""
    max_r_speech: Decibel = 5.0
    min_r_noise: Decibel = -5.0
    """Ratio of the energy of the utterance to that of the noise, in dB."""
    max_r_noise: Decibel = 20.0
    min_mix_rate: Share = 0.0
    """Share of the utterance that the added signal covers."""
    max_mix_rate: Share = 1.0
    min_num_segments: Segments = 1
    max_num_segments: Segments = 1
    min_num_speakers: Segments = 1
    max_num_speakers: Segments = 1


def read_mixing(node: dict[str, Any], where: str) -> MixingSettings | None:
    """Reads ``batch_augmentor`` of a dataset node; returns None if it is not given.

    Args:
        node: plain dictionary of the dataset.
        where: its key, such as ``model.train_ds``.

    Raises:
        ValueError: a value is out of range, the ends of a range are swapped, or noise is missing or not used.
    """
    given = node.get(KEY)
    if given is None:
        for key in (NOISE, NOISE_SHARDS):
            if node.get(key) is not None:
                refuse(f"{where}.{key}", node[key], f"null without {where}.{KEY}, which sets how much noise is mixed in")
        return None
    settings = read(MixingSettings, given, f"{where}.{KEY}")
    for name in RANGES:
        low, high = getattr(settings, f"min_{name}"), getattr(settings, f"max_{name}")
        if low > high:
            refuse(f"{where}.{KEY}.max_{name}", high, f"at least min_{name}={low}")
    if not node.get("use_lhotse"):
        refuse(f"{where}.use_lhotse", node.get("use_lhotse"), f"true with {where}.{KEY}: the streaming loader does not mix")
    if settings.noise_ratio > 0 and node.get(NOISE) is None:
        refuse(f"{where}.{NOISE}", None, f"a manifest of noise with {where}.{KEY}.noise_ratio={settings.noise_ratio}")
    return settings
