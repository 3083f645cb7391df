"""Keys of NeMo's data loaders that this loader does not read: keys without effect, and keys that it refuses.

docs/data_loading.md has the whole table. A key that would alter the audio, or select utterances, is refused unless it has
the value that disables it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

NO_EFFECT: dict[str, Sequence[str]] = {
    "the order of the data is planned from seed, and every utterance is in a batch (docs/data_loading.md)": (
        "shard_seed", "concurrent_bucketing", "num_cuts_for_bins_estimate", "force_finite", "force_map_dataset",
        "force_iterable_dataset", "max_open_streams", "slice_length", "drop_last", "bucketing_strategy", "shard_manifests",
        "defer_setup", "concat_sampling_technique", "concat_sampling_temperature", "concat_sampling_scale",
        "concat_sampling_probabilities", "concat_shuffle", "concat_sampling_seed", "sampler_fusion", "sampler_weights",
        "tarred_audio_index_filepaths",
    ),
    "members without a line are always passed over, and lines without a member count for max_skipped_share": (
        "skip_missing_manifest_entries", "tarred_random_access",
    ),
    "pretraining does not read text": (
        "labels", "parser", "normalize", "normalize_transcripts", "blank_index", "unk_index", "bos_id", "eos_id", "pad_id",
        "use_start_end_token", "return_sample_id", "text_field", "lang_field", "pretokenize", "prompt_format",
        "audio_locator_tag", "token_equivalent_duration", "measure_total_length", "bucketing_2d_strict_mode",
        "cut_text_into_windows_tokens", "return_cuts",
    ),
    "these belong to a key that is switched off": (
        "noise_snr", "noise_mix_prob", "concatenate_gap_seconds", "concatenate_duration_factor",
        "concatenate_merge_supervisions", "db_norm", "truncate_offset_type", "cut_into_windows_hop",
        "keep_excessive_supervisions", "rir_path", "rir_prob", "pad_direction", "lowpass_frequencies_interval",
        "lowpass_prob", "compression_prob", "compression_level_interval", "compression_codecs",
        "compression_codec_weights", "compression_enable_for_custom_fields", "clipping_gain_db", "clipping_normalize",
        "clipping_oversampling", "clipping_prob_hard", "clipping_prob", "code_switched", "batch_tokens",
        "quadratic_factor",
    ),
    "PyTorch manages the memory": ("cuda_expandable_segments",),
}  # fmt: skip
"""Accepted keys without effect, by the reason."""

ALTERS = "it would alter the audio, which pretraining does not do: remove it"
SELECTS = 'it would skip utterances: remove it, and remove them from the manifest or add "_skipme": true to their lines'
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "augmentor": ((None,), ALTERS),
    "noise_path": ((None,), ALTERS),
    "perturb_speed": ((False, None), ALTERS),
    "trim": ((False, None), ALTERS),
    "trim_silence": ((False, None), ALTERS),
    "int_values": ((False, None), ALTERS),
    "channel_selector": ((None, "average"), "the channels are averaged (channel_selector=average): remove it"),
    "concatenate_samples": ((False, None), ALTERS),
    "is_code_switched": ((False, None), ALTERS),
    "truncate_duration": ((None,), ALTERS),
    "cut_into_windows_duration": ((None,), "birq make-shards --max-duration cuts long audio: remove it"),
    "rir_enabled": ((False, None), ALTERS),
    "pad_min_duration": ((None,), ALTERS),
    "lowpass_enabled": ((False, None), ALTERS),
    "compression_enabled": ((False, None), ALTERS),
    "clipping_enabled": ((False, None), ALTERS),
    "metadata_only": ((False, None), "there would be no audio: remove it"),
    "max_utts": ((None, 0, -1), SELECTS),
    "min_tps": ((None, -1), SELECTS),
    "max_tps": ((None, float("inf")), SELECTS),
    "min_tokens": ((None,), SELECTS),
    "max_tokens": ((None,), SELECTS),
    "min_tpt": ((None, -1), SELECTS),
    "max_tpt": ((None, float("inf")), SELECTS),
    "max_cer": ((None, float("inf")), SELECTS),
    "min_context_speaker_similarity": ((None, -1), SELECTS),
    "keep": ((None, "pass"), SELECTS),
    "reweight_temperature": ((None, 1, 1.0), "raise the weights of input_cfg to this power, and remove it"),
    "bucketing_weights": ((None,), "remove it, and give weights to the datasets, with use_lhotse=true"),
    "bucketing_batch_size": (
        (None,),
        "remove it, and set bucket_duration_bins and bucket_batch_size, or batch_duration, with use_lhotse=true",
    ),
    "is_concat": ((False, None), "remove it: several datasets are read without it, and input_cfg mixes them by weight"),
    "multi_config": ((False, None), "remove it, and name all data in one input_cfg"),
    "use_multimodal_sampling": ((False, None), "remove it: batch_duration sets the size of a batch of audio"),
    "use_dali": ((False, None), "remove it: use_lhotse=true reads the same shards"),
    "hf_data_cfg": ((None,), "make shards of the data set, or a manifest of its files"),
    "cuts_path": (
        (None,),
        "make shards of the cuts: birq make-shards cuts CUTS --out FOLDER; or write their files into a manifest",
    ),
    "shar_path": ((None,), "make shards of the cuts: birq make-shards cuts CUTS --out FOLDER"),
}
"""Refused keys with the values that disable them, and what to do if they have another value."""


def explain_keys(config: Mapping[str, Any], where: str = "") -> dict[str, list[str]]:
    """Returns the keys of a dataset node that have no effect, by the reason.

    Args:
        config: dataset node.
        where: key of the node and a dot, for the message, such as ``model.train_ds.``.

    Raises:
        ValueError: a key would alter the audio or select utterances; the message says what to do.
    """
    for key, (neutral, remedy) in REFUSED.items():
        if key in config and config[key] not in neutral:
            raise ValueError(f"{where}{key}={config[key]} of NeMo's data loaders is not supported for pretraining: {remedy}")
    found = {meaning: [key for key in keys if key in config] for meaning, keys in NO_EFFECT.items()}
    return {meaning: keys for meaning, keys in found.items() if keys}
