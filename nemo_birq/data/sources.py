"""Converts NeMo's ways to name manifests and shards to one form."""

import os
import re
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

from braceexpand import braceexpand
from nemo.collections.common.data.lhotse.nemo_adapters import expand_sharded_filepaths
from omegaconf import DictConfig, ListConfig, OmegaConf

from nemo_birq.config_checks.data_files import INPUT_CFG, MANIFESTS, SHARDS, given
from nemo_birq.data.json_lines import show
from nemo_birq.data.manifests import COMMAND

TYPES = ("nemo", "nemo_tarred")
AND = " + "
NUMBERS = re.compile(r"(?:[({[<]|_OP_)(\d+\.\.\d+(?:\.\.\d+)?|[^\s{}]*,[^\s{}]*)(?:[)}\]>]|_CL_)")
"""Patterns in a command: 0..7 or a,b in brackets."""


class Source(NamedTuple):
    """One dataset: manifests and, if it is tarred, as many shards."""

    manifest: str
    """Path, or a pattern such as ``manifest__OP_0..7_CL_.json``; several are joined by `` + ``."""
    tars: str | None
    """Shards in the same form; None: single files."""
    weight: float | None
    """Share in a mixture of several datasets, relative to the others; None: proportional to the number of utterances."""

    @property
    def manifest_paths(self) -> list[str]:
        return _expand(self.manifest)

    @property
    def tar_paths(self) -> list[str]:
        return [] if self.tars is None else _expand(self.tars)


def _expand(patterns: str) -> list[str]:
    return [path for pattern in patterns.split(AND) for path in _expand_one(pattern)]


def _expand_one(pattern: str) -> list[str]:
    if not pattern.startswith(COMMAND):
        return [str(path) for path in expand_sharded_filepaths(pattern)]
    # NeMo treats every bracket of a command as a pattern, even in its redirections.
    parts = NUMBERS.split(pattern)
    choices = [list(braceexpand(f"{{{part}}}")) if number % 2 else [part] for number, part in enumerate(parts)]
    return ["".join(chosen) for chosen in product(*choices)]


def read_sources(config: DictConfig) -> list[Source]:
    """Reads the datasets of ``input_cfg``, or without it those of ``manifest_filepath`` and ``tarred_audio_filepaths``.

    The last two are one path or pattern, several separated by commas, or a list with one entry for each dataset:
    ``[path, ...]``, ``[[path, ...], ...]`` or ``[[path, weight], ...]``, which may be written as text. One manifest may have
    a list of shards. ``input_cfg`` is NeMo's list of ``{type: nemo or nemo_tarred, manifest_filepath, weight,
    tarred_audio_filepaths}`` and ``{type: group, weight, input_cfg}``, or the path of a yaml file with it. If any dataset in
    it has a weight, the members of a group without weights have equal shares of the group, as in NeMo.

    Raises:
        ValueError: the lists differ in length, only some datasets of a list have a weight, a type in ``input_cfg`` is
            unknown, or a yaml file has a command (``pipe:``), because others may have written the file.
    """
    if given(config, INPUT_CFG):
        items = _items(config[INPUT_CFG], None)
        return _mixed(items) if any(map(_is_weighted, items)) else [source for item in items for source in _leaves(item)]
    return _sources_of_lists(config)


def _check_weights(weights: dict[str, float | None]) -> None:
    if len({weight is None for weight in weights.values()}) > 1:
        raise ValueError(f"give a weight to each of the {len(weights)} datasets, or to none: {weights}")
    if any(weight is not None and weight <= 0 for weight in weights.values()):
        raise ValueError(f"the weights of datasets must be above 0: {weights}")


# --- manifest_filepath and tarred_audio_filepaths ---------------------------------------------------------------------


class _Entry(NamedTuple):
    """An entry of a list: paths of one dataset."""

    paths: list[str]
    weight: float | None

    @property
    def pattern(self) -> str:
        return AND.join(self.paths)


def _sources_of_lists(config: DictConfig) -> list[Source]:
    manifests, tars = _entries(config[MANIFESTS], MANIFESTS), None
    if given(config, SHARDS):
        tars = _entries(config[SHARDS], SHARDS)
        if len(manifests) == 1 and len(tars) > 1:  # one manifest of the shards of several folders
            tars = [_Entry([path for entry in tars for path in entry.paths], None)]
        if len(manifests) != len(tars):
            raise ValueError(
                f"{MANIFESTS} names {len(manifests)} dataset(s), {SHARDS} {len(tars)}: give one entry of each for every "
                "dataset"
            )
    patterns = [None] * len(manifests) if tars is None else [entry.pattern for entry in tars]
    sources = [Source(entry.pattern, tar, entry.weight) for entry, tar in zip(manifests, patterns, strict=True)]
    _check_weights({f"{number}. {source.manifest}": source.weight for number, source in enumerate(sources, start=1)})
    return sources


def _entries(value: Any, key: str) -> list[_Entry]:
    if isinstance(value, ListConfig):
        value = OmegaConf.to_container(value, resolve=True)
    if isinstance(value, str):
        value = _from_text(value)
    if isinstance(value, str):
        return [_Entry(_separated(value), None)]
    return [_entry(_from_text(entry) if isinstance(entry, str) else entry, key) for entry in value]


def _entry(value: Any, key: str) -> _Entry:
    paths, weight = ([value], None) if isinstance(value, str) else (value, None)
    if isinstance(paths, list) and len(paths) == 2 and _as_number(paths[1]) is not None:
        paths, weight = paths[:1], _as_number(paths[1])
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{key}: {show(value)} is not allowed: an entry is a path, a list of paths, or [path, weight]")
    return _Entry([single for path in paths for single in _separated(path)], weight)


def _as_number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _from_text(text: str) -> str | list:
    """Returns the list that is written as text, ``[a.json,b.json]``; returns other text unchanged."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return text
    return [_from_text(part.strip().strip("'\"")) for part in _split(text[1:-1]) if part.strip()]


def _separated(path: str) -> list[str]:
    """Splits NeMo's ``a.json,b.json``, but not a file name with a comma."""
    parts = [part.strip() for part in _split(path)]
    several = len(parts) > 1 and not path.startswith(COMMAND) and all(os.path.splitext(part)[1] for part in parts)
    return parts if several else [path]


def _split(text: str) -> list[str]:
    """Splits text at the commas outside of brackets."""
    parts, depth = [""], 0
    for character in text.replace("_OP_", "\0{").replace("_CL_", "\0}"):
        depth += (character in "[{(<") - (character in "]})>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.replace("\0{", "_OP_").replace("\0}", "_CL_") for part in parts]


# --- input_cfg --------------------------------------------------------------------------------------------------------


class _Item(NamedTuple):
    """An item of ``input_cfg``: datasets, or a group of items."""

    inside: "list[Source] | list[_Item]"
    weight: float | None
    name: str


def _items(node: str | ListConfig, file: str | None) -> list[_Item]:
    """Reads a list, or the yaml file of that name; ``file`` is the file from which a list comes."""
    file = node if isinstance(node, str) else file
    entries = OmegaConf.load(node) if isinstance(node, str) else node
    if not isinstance(entries, ListConfig) or not entries:
        raise ValueError(f"input_cfg: {file or show(entries)} must hold a list of datasets, each with its type")
    return [_item(entry, file) for entry in entries]


def _item(entry: DictConfig, file: str | None) -> _Item:
    kind = entry.get("type") if isinstance(entry, DictConfig) else None
    if kind != "group" and kind not in TYPES:
        raise ValueError(
            f"input_cfg: type={kind} is not one of {TYPES} or group; birq make-shards makes shards of Lhotse cuts"
        )
    weight = None if entry.get("weight") is None else float(entry.weight)
    if kind == "group":
        return _Item(_items(entry.input_cfg, file), weight, f"group of {len(entry.input_cfg)}")
    if not given(entry, MANIFESTS) or (kind == "nemo_tarred" and not given(entry, SHARDS)):
        raise ValueError(f"input_cfg: a dataset of type={kind} lacks {SHARDS if given(entry, MANIFESTS) else MANIFESTS}")
    sources = _sources_of_lists(entry)
    if file is not None:
        for source in sources:
            _refuse_commands(source, file)
    return _Item(sources, weight, sources[0].manifest)


def _is_weighted(item: _Item | Source) -> bool:
    return item.weight is not None or (isinstance(item, _Item) and any(map(_is_weighted, item.inside)))


def _leaves(item: _Item | Source) -> list[Source]:
    return [item] if isinstance(item, Source) else [source for inner in item.inside for source in _leaves(inner)]


def _mixed(items: Sequence[_Item]) -> list[Source]:
    """Returns the datasets of a list with their weights, which are equal if the items of the list have none."""
    _check_weights({f"{number}. {item.name}": item.weight for number, item in enumerate(items, start=1)})
    found: list[Source] = []
    for item in items:
        inner = _mixed_inside(item)
        total = sum(source.weight for source in inner)
        if item.weight is None and len(items) == 1:
            found += inner
        else:
            weight = 1.0 if item.weight is None else item.weight
            found += [source._replace(weight=weight * source.weight / total) for source in inner]
    return found


def _mixed_inside(item: _Item) -> list[Source]:
    if isinstance(item.inside[0], _Item):
        return _mixed(item.inside)
    if item.inside[0].weight is not None:
        return item.inside
    manifests, tars = ([source[part] for source in item.inside if source[part]] for part in (0, 1))  # buckets are joined
    return [Source(_Entry(manifests, None).pattern, _Entry(tars, None).pattern if tars else None, 1.0)]


def _refuse_commands(source: Source, file: str) -> None:
    commands = [path for path in (*source.manifest_paths, *source.tar_paths) if path.startswith(COMMAND)]
    if commands:
        raise ValueError(
            f"{file} names the command {commands[0]}, which is not run because others may have written the file. To run it, "
            "name it in the configuration itself (input_cfg as a list, or tarred_audio_filepaths)"
        )
