"""Values of ``train_ds``, ``validation_ds`` and ``test_ds``."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AllowInfNan, Field, Strict

from nemo_birq.config_checks.data_files import INPUT_CFG, MANIFESTS, SHARDS
from nemo_birq.config_checks.mixing import NOISE, NOISE_SHARDS, read_mixing
from nemo_birq.config_checks.nemo_keys import explain_keys
from nemo_birq.utils.settings import (
    MISSING,
    Count,
    Flag,
    Name,
    Node,
    Positive,
    Real,
    Seed,
    Share,
    Size,
    Whole,
    read,
    refuse,
    shown,
)
from nemo_birq.utils.urls import find_secret_problem

Files = Name | Annotated[list[Any], Field(min_length=1)] | None


class DatasetSettings(Node):
    """Values of both loaders, that of pretraining and that of fine-tuning."""

    manifest_filepath: Files = None
    tarred_audio_filepaths: Files = None
    input_cfg: Files = None
    use_lhotse: Flag = False
    is_tarred: Flag = False
    sample_rate: Annotated[Whole, Field(ge=1000, le=192000)] = 16000
    shuffle: Flag = False
    shuffle_n: Count = 0
    tarred_shard_strategy: Literal["scatter", "replicate"] = "scatter"
    min_duration: Annotated[Real, Field(ge=-1)] | None = None
    max_duration: Annotated[float, Strict(), AllowInfNan(True), Field(gt=0)] | None = None  # .inf is allowed
    batch_size: Size | None = None
    batch_duration: Positive | None = None
    quadratic_duration: Positive | None = None
    use_bucketing: Flag = False
    num_buckets: Annotated[Whole, Field(ge=1, le=10000)] = 30
    bucket_buffer_size: Size = 10000
    bucket_duration_bins: Annotated[list[Any], Field(min_length=1)] | None = None
    bucket_batch_size: Annotated[list[Size], Field(min_length=1)] | None = None
    shuffle_buffer_size: Count | None = 10000
    num_workers: Annotated[Whole, Field(ge=0, le=1024)] = 0
    pin_memory: Flag = False


class PretrainingDataset(DatasetSettings):
    """Values of the loader of nemo_birq/data."""

    max_skipped_share: Share = 0.05
    remote_cache_gb: Annotated[Real, Field(ge=0, le=1e6)] | None = None
    seed: Seed = 0
    noise_manifest: Files = None
    noise_tarred_audio_filepaths: Files = None


class FinetuningDataset(DatasetSettings):
    """Values of NeMo's Lhotse loader."""

    seed: Seed | Literal["trng", "randomized"] = 0
    shard_seed: Seed | Literal["trng", "randomized"] = "trng"
    concurrent_bucketing: Flag = True
    force_finite: Flag = False


Kind = TypeVar("Kind", bound=DatasetSettings)


def check_dataset(kind: type[Kind], node: dict[str, Any], where: str) -> Kind:
    """Checks the values of a dataset node; its files need not exist.

    Args:
        kind: the loader's settings.
        node: plain dictionary of the node.
        where: its key, such as ``model.train_ds``.

    Raises:
        ValueError: a value is out of range, values do not fit each other, or a URL may hold a secret.
    """
    others = (MANIFESTS, SHARDS) if node.get(INPUT_CFG) else ()  # which may be empty if input_cfg is set
    for key in (MANIFESTS, SHARDS, INPUT_CFG, NOISE, NOISE_SHARDS):
        for text in _texts(node.get(key)):
            if (problem := find_secret_problem(text)) is not None:
                raise ValueError(f"{where}.{key}: {problem}")
    settings = read(kind, {k: v for k, v in node.items() if v != MISSING and not (k in others and v == "")}, where)
    if kind is PretrainingDataset:
        explain_keys(node, f"{where}.")
        read_mixing(node, where)
    low, high = settings.min_duration, settings.max_duration
    if low is not None and high is not None and low > high:
        refuse(f"{where}.max_duration", high, f"at least {where}.min_duration={shown(node['min_duration'])}")
    bins, sizes = settings.bucket_duration_bins, settings.bucket_batch_size
    if not settings.use_lhotse and not settings.is_tarred:
        refuse(f"{where}.use_lhotse", settings.use_lhotse, f"true, or false with {where}.is_tarred=true and a batch_size")
    if not settings.use_lhotse and settings.batch_size is None:
        refuse(f"{where}.batch_size", None, f"a number of utterances if {where}.use_lhotse is false")
    if kind is PretrainingDataset and settings.remote_cache_gb and not settings.use_lhotse:
        refuse(
            f"{where}.remote_cache_gb",
            settings.remote_cache_gb,
            f"null if {where}.use_lhotse is false, because streams are not cached",
        )
    if settings.batch_size is None and settings.batch_duration is None and not (bins and sizes):
        allowed = f"a number of seconds if neither {where}.batch_size nor {where}.bucket_batch_size is given"
        refuse(f"{where}.batch_duration", None, allowed)
    if sizes is not None and len(sizes) != len(bins or ()):
        refuse(f"{where}.bucket_batch_size", sizes, f"as long as {where}.bucket_duration_bins={shown(bins)}")
    if bins is not None and kind is PretrainingDataset:
        numbers = all(isinstance(end, int | float) and not isinstance(end, bool) and end > 0 for end in bins)
        if not numbers or any(following <= end for end, following in pairwise(bins)):
            refuse(f"{where}.bucket_duration_bins", bins, "a list of seconds above 0 in ascending order")
    return settings


def _texts(value: Any) -> Iterator[str]:
    """Yields the paths of a value, which may be nested lists and groups of keys, or a list written as text."""
    if isinstance(value, str):
        yield from value.strip("[] ").split(",")
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
