"""NeMo's ways to name manifests and shards, brought into one form."""

from typing import NamedTuple

from nemo.collections.common.data.lhotse.nemo_adapters import expand_sharded_filepaths
from omegaconf import DictConfig, ListConfig, OmegaConf

TYPES = ("nemo", "nemo_tarred")


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


def read_sources(config: DictConfig) -> list[Source]:
    """The datasets that ``manifest_filepath`` and ``tarred_audio_filepaths`` name, or ``input_cfg``.

    The first two are one path or pattern, or a list with one entry for each dataset: ``[path, ...]``, ``[[path], ...]`` or
    ``[[path, weight], ...]``. ``input_cfg`` is NeMo's list of ``{type: nemo or nemo_tarred, manifest_filepath,
    tarred_audio_filepaths, weight}`` and ``{type: group, weight, input_cfg}``, or the path of a yaml file with it.

    Raises:
        ValueError: the lists differ in length, some datasets have a weight and others none, another type in ``input_cfg``,
            or a command (``pipe:``) in the yaml file, which may be somebody else's.
    """
    sources = _sources_of_input_cfg(config.input_cfg) if config.get("input_cfg") else _sources_of_lists(config)
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError(f"give a weight to each of the {len(sources)} datasets, or to none: {[tuple(s) for s in sources]}")
    if any(source.weight is not None and source.weight <= 0 for source in sources):
        raise ValueError(f"the weights of datasets must be above 0: {[source.weight for source in sources]}")
    return sources


def _sources_of_lists(config: DictConfig) -> list[Source]:
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


def _sources_of_input_cfg(node: str | ListConfig, file: str | None = None) -> list[Source]:
    """Reads a list, or the yaml file of that name; ``file`` is the one that a list comes from."""
    file = node if isinstance(node, str) else file
    entries = OmegaConf.load(node) if isinstance(node, str) else node
    sources: list[Source] = []
    for entry in entries:
        weight = entry.get("weight")
        if entry.type == "group":
            inner = _sources_of_input_cfg(entry.input_cfg, file)
            total = sum(source.weight or 0.0 for source in inner)
            if weight is not None and total == 0:
                raise ValueError("input_cfg: a group with a weight must give weights to its datasets, too")
            sources += [s if weight is None else s._replace(weight=weight * s.weight / total) for s in inner]
        elif entry.type in TYPES:
            tars = entry.get("tarred_audio_filepaths") if entry.type == "nemo_tarred" else None
            source = Source(entry.manifest_filepath, tars, None if weight is None else float(weight))
            if file is not None:
                _refuse_commands(source, file)
            sources.append(source)
        else:
            raise ValueError(
                f"input_cfg: type={entry.type} is not one of {TYPES}; birq make-shards makes shards of Lhotse cuts"
            )
    return sources


def _refuse_commands(source: Source, file: str) -> None:
    commands = [path for path in (*source.manifest_paths, *source.tar_paths) if path.startswith("pipe:")]
    if commands:
        raise ValueError(
            f"{file} names the command {commands[0]}, and a file may be somebody else's: nothing is run. Name it in the "
            "configuration itself (input_cfg as a list, or tarred_audio_filepaths) if it is to be run"
        )
