"""Keys of NeMo's data loaders that the loader here does not read: those without effect, and those that are refused.

docs/data_loading.md has the whole table. A key that would alter the audio, or change which utterances are trained on, is
refused unless it has the value by which it does nothing.
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
    "pretraining reads no text": (
        "labels", "parser", "normalize", "normalize_transcripts", "blank_index", "unk_index", "bos_id", "eos_id", "pad_id",
        "use_start_end_token", "return_sample_id", "text_field", "lang_field", "pretokenize", "prompt_format",
        "audio_locator_tag", "token_equivalent_duration", "measure_total_length", "bucketing_2d_strict_mode",
        "cut_text_into_windows_tokens", "return_cuts",
    ),
    "these belong to a key that is off": (
        "noise_snr", "noise_mix_prob", "concatenate_gap_seconds", "concatenate_duration_factor",
        "concatenate_merge_supervisions", "db_norm", "truncate_offset_type", "cut_into_windows_hop",
        "keep_excessive_supervisions", "rir_path", "rir_prob", "pad_direction", "lowpass_frequencies_interval",
        "lowpass_prob", "compression_prob", "compression_level_interval", "compression_codecs",
        "compression_codec_weights", "compression_enable_for_custom_fields", "clipping_gain_db", "clipping_normalize",
        "clipping_oversampling", "clipping_prob_hard", "clipping_prob", "code_switched", "batch_tokens",
        "quadratic_factor",
    ),
    "memory is left to PyTorch": ("cuda_expandable_segments",),
}  # fmt: skip
"""By what they mean here: keys that are taken, whatever their value."""

ALTERS = "it would alter the audio, which pretraining does not do: remove it"
SELECTS = 'it would leave out utterances: leave them out of the manifest, or mark their lines with "_skipme": true'
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
    "cut_into_windows_duration": ((None,), "birq make-shards --max-duration cuts what is long: remove it"),
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
    "bucketing_weights": ((None,), "give weights to the datasets, with use_lhotse=true: remove it"),
    "bucketing_batch_size": (
        (None,),
        "set bucket_duration_bins and bucket_batch_size, or batch_duration, with use_lhotse=true: remove it",
    ),
    "is_concat": ((False, None), "several datasets are read without it, and input_cfg mixes them by weight: remove it"),
    "multi_config": ((False, None), "name all data in one input_cfg: remove it"),
    "use_multimodal_sampling": ((False, None), "batch_duration says how large a batch of audio is: remove it"),
    "use_dali": ((False, None), "use_lhotse=true reads the same shards: remove it"),
    "hf_data_cfg": ((None,), "make shards of the data set, or a manifest of its files"),
    "cuts_path": (
        (None,),
        "make shards of the cuts: birq make-shards cuts CUTS --out FOLDER; or write their files into a manifest",
    ),
    "shar_path": ((None,), "make shards of the cuts: birq make-shards cuts CUTS --out FOLDER"),
}
"""Keys with the values by which they do nothing, and what to do where they have another."""


def explain_keys(config: Mapping[str, Any], where: str = "") -> dict[str, list[str]]:
    """Returns the keys of a dataset node that have no effect, by what they mean here.

    Args:
        config: the node.
        where: its key and a dot, for the message, such as ``model.train_ds.``.

    Raises:
        ValueError: a key that would alter the audio or select utterances, with what to do.
    """
    for key, (neutral, remedy) in REFUSED.items():
        if key in config and config[key] not in neutral:
            raise ValueError(f"{where}{key}={config[key]} of NeMo's data loaders is not supported for pretraining: {remedy}")
    found = {meaning: [key for key in keys if key in config] for meaning, keys in NO_EFFECT.items()}
    return {meaning: keys for meaning, keys in found.items() if keys}
