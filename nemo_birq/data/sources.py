"""NeMo's ways to name manifests and shards, brought into one form."""

from typing import NamedTuple

from nemo.collections.common.data.lhotse.nemo_adapters import expand_sharded_filepaths
from omegaconf import DictConfig, ListConfig, OmegaConf


class Source(NamedTuple):
    """One dataset: manifests and, if it is tarred, as many shards."""

    manifest: str
    """Path, or a pattern such as ``manifest__OP_0..7_CL_.json``."""
    tars: str | None
    weight: float | None
    """Share in a mixture of several datasets, relative to the others; None: by number of utterances."""

    @property
    def manifest_paths(self) -> list[str]:
        return [str(path) for path in expand_sharded_filepaths(self.manifest)]

    @property
    def tar_paths(self) -> list[str]:
        return [] if self.tars is None else [str(path) for path in expand_sharded_filepaths(self.tars)]

    def num_utterances(self) -> int:
        """Lines of its manifests."""
        return sum(sum(1 for _ in open(path, encoding="utf-8")) for path in self.manifest_paths)


def read_sources(config: DictConfig) -> list[Source]:
    """The datasets that ``manifest_filepath`` and ``tarred_audio_filepaths`` name.

    Both are one path or pattern, or a list with one entry for each dataset: ``[path, ...]``, ``[[path], ...]`` or
    ``[[path, weight], ...]``.

    Raises:
        ValueError: the two lists differ in length.
    """
    manifests = _entries(config.manifest_filepath)
    tars = _entries(config.tarred_audio_filepaths) if config.get("tarred_audio_filepaths") else [[None]] * len(manifests)
    if len(manifests) != len(tars):
        raise ValueError(
            f"manifest_filepath names {len(manifests)} dataset(s), tarred_audio_filepaths {len(tars)}: give one entry "
            "of each for every dataset"
        )
    return [
        Source(manifest[0], tar[0], float(manifest[1]) if len(manifest) > 1 else None)
        for manifest, tar in zip(manifests, tars, strict=True)
    ]


def _entries(value: str | list | ListConfig) -> list[list]:
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, str):
        return [[value]]
    return [[entry] if isinstance(entry, str) else list(entry) for entry in value]
