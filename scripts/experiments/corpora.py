"""Corpora of experiments: the paths of their manifests (conf/experiments/corpora.yaml), and their labelled part."""

import re
import tarfile
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.budgets import FOLDER, ROOT
from nemo_birq.data.json_lines import to_line
from nemo_birq.data.manifests import check_manifest_of_files, read_manifest
from nemo_birq.utils.files import write_text

CORPUS, OUT = "$CORPUS", "$OUT"
"""Placeholders for folders of this machine in everything that is recorded."""
LABELLED = "labelled.jsonl"
SHARDS = "__OP_0..{last}_CL_"
TOLERANCE = 1e-9  # hours; sums of durations are rounded


@dataclass
class Layout:
    """Keys of a corpus in corpora.yaml; paths are relative to the folder of the corpus."""

    description: str = ""
    folder: str | None = None
    """Folder relative to this repository; None: the user gives NAME=FOLDER."""
    manifest: str = ""
    """Manifest of the audio for pretraining; ``{last}`` stands for the number of the last shard."""
    tars: str | None = None
    """None: the manifest names single files."""
    validation: str = ""
    test: str = ""
    alignments: str | None = None
    """CTM file of the validation set; None: label quality is not measured."""
    labelled_hours: float = 1.0
    labelled_folder: str | None = None
    """Folder of shards that are all labelled and replace the first shards of the audio for pretraining."""


@dataclass(frozen=True)
class Labelled:
    """The part of the training audio that fine-tuning gets with its texts."""

    hours: float
    overrides: list[str]
    """Hydra overrides of ``model.train_ds``."""
    note: str
    """Description of the part in words."""
    lines: list[dict] | None = None
    """Lines to write to ``$OUT/labelled.jsonl``; None: the overrides name an existing manifest."""
    tar: Path | None = None
    """Shard with the audio of ``lines``, to unpack into ``$OUT/labelled``; None: ``lines`` name existing files."""


@dataclass(frozen=True)
class Corpus:
    """A corpus on this machine."""

    name: str
    folder: Path
    layout: Layout
    last_shard: int | None
    """Number of the last shard; None: single files."""
    labelled: Labelled
    hours: float
    """Hours of audio for pretraining."""

    @property
    def train_overrides(self) -> list[str]:
        """Hydra overrides of ``model.train_ds`` for pretraining."""
        return _train_overrides(self.layout, self.last_shard)

    @property
    def clustering_arguments(self) -> list[str]:
        """The same audio as arguments of scripts/cluster_labels.py."""
        manifest, tars = (value and value.format(last=self.last_shard) for value in (self.layout.manifest, self.layout.tars))
        return [f"--manifest={recorded(manifest)}", *([f"--tarred-audio={recorded(tars)}"] if tars else [])]

    @property
    def validation_override(self) -> str:
        return f"model.validation_ds.manifest_filepath={recorded(self.layout.validation)}"


def recorded(path: str) -> str:
    """Returns a path of the corpus as commands and results name it."""
    return f"{CORPUS}/{path}"


def read_layouts() -> dict[str, Layout]:
    """Reads the known corpora by name.

    Raises:
        ValueError: corpora.yaml is not yaml or has an unknown key.
    """
    path = FOLDER / "corpora.yaml"
    try:
        return {
            name: OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Layout), block))
            for name, block in OmegaConf.load(path).items()
        }
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error


def open_corpus(argument: str, labelled_hours: float | None = None) -> Corpus:
    """Opens ``NAME=FOLDER``, or ``NAME`` for a corpus in this repository.

    Args:
        argument: value of ``--corpus``.
        labelled_hours: approximate hours of audio for fine-tuning; None: the value in corpora.yaml.

    Raises:
        ValueError: an unknown corpus, or a folder without its shards.
        FileNotFoundError: a missing folder, manifest or audio file.
    """
    layouts = read_layouts()
    name, equals, given = argument.partition("=")
    if name not in layouts:
        raise ValueError(f"--corpus {name}: there are {', '.join(layouts)}; conf/experiments/corpora.yaml describes them")
    layout = layouts[name]
    if not equals and layout.folder is None:
        raise ValueError(f"--corpus {name}: give its folder, --corpus {name}=FOLDER ({layout.description})")
    folder = Path(given).expanduser().resolve() if equals else ROOT / layout.folder
    if not folder.is_dir():
        raise FileNotFoundError(f"--corpus {name}: {folder} is not a folder ({layout.description})")
    last = _last_shard(folder, layout)
    files = [file for file in (layout.validation, layout.test, layout.alignments) if file]
    if last is None:
        files.append(layout.manifest)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise FileNotFoundError(f"--corpus {name}: {folder} has no {', no '.join(missing)} ({layout.description})")
    for manifest in (layout.validation, layout.test):
        check_manifest_of_files(str(folder / manifest))
    wanted = labelled_hours or layout.labelled_hours
    if last is None:
        labelled, hours = choose_files(folder, layout, wanted)
    else:
        by_shard = _shard_hours(folder, layout, last)
        hours = sum(by_shard)
        labelled = _all_of(folder, layout) if layout.labelled_folder else _first_shards(folder, layout, by_shard, wanted)
    return Corpus(name, folder, layout, last, labelled, hours)


def _shard_hours(folder: Path, layout: Layout, last: int) -> list[float]:
    manifests = [folder / layout.manifest.replace(SHARDS, f"_{number}") for number in range(last + 1)]
    return [sum(line["duration"] for line in read_manifest(str(manifest))) / 3600 for manifest in manifests]


def _all_of(folder: Path, layout: Layout) -> Labelled:
    """Takes all shards of ``labelled_folder``, which has the layout of the folder for pretraining."""
    manifest, tars = (f"{layout.labelled_folder}/{path.partition('/')[2]}" for path in (layout.manifest, layout.tars))
    own = replace(layout, manifest=manifest, tars=tars)
    last = _last_shard(folder, own)
    hours = sum(_shard_hours(folder, own, last))
    return Labelled(hours, _train_overrides(own, last), f"all of {layout.labelled_folder}")


def _first_shards(folder: Path, layout: Layout, hours: list[float], wanted: float) -> Labelled:
    """Takes the first shards that hold ``wanted`` hours together, or the first utterances of shard 0 if it holds more.

    Raises:
        ValueError: all shards together hold less.
    """
    _check_hours(wanted, sum(hours), folder)
    if wanted < hours[0]:
        return _first_utterances(folder, layout, wanted)
    number = _how_many(hours, wanted)
    return Labelled(sum(hours[:number]), _train_overrides(layout, number - 1), f"the first {number} shards")


def _first_utterances(folder: Path, layout: Layout, wanted: float) -> Labelled:
    lines = read_manifest(str(folder / layout.manifest.replace(SHARDS, "_0")))
    hours = [line["duration"] / 3600 for line in lines]
    number = _how_many(hours, wanted)
    return Labelled(
        hours=sum(hours[:number]),
        overrides=[f"model.train_ds.manifest_filepath={OUT}/{LABELLED}"],
        note=f"the first {number} utterances of shard 0, unpacked",
        lines=[{key: value for key, value in line.items() if key != "shard_id"} for line in lines[:number]],
        tar=folder / layout.tars.replace(SHARDS, "_0"),
    )


def _how_many(hours: list[float], wanted: float) -> int:
    """Returns the number of the first parts that hold the wanted hours."""
    return next(number for number, end in enumerate(accumulate(hours), start=1) if end >= wanted - TOLERANCE)


def choose_files(folder: Path, layout: Layout, wanted: float) -> tuple[Labelled, float]:
    """Takes every m-th line of a manifest of single files, from the first on, with absolute paths.

    Returns:
        the labelled part, and the hours of the whole manifest.

    Raises:
        ValueError: all lines together hold less than ``wanted`` hours.
    """
    lines = check_manifest_of_files(str(folder / layout.manifest))
    total = sum(line["duration"] for line in lines) / 3600
    _check_hours(wanted, total, folder)
    every = max(1, int(total / wanted))
    beside = (folder / layout.manifest).parent
    chosen = [line | {"audio_filepath": str(beside / line["audio_filepath"])} for line in lines[::every]]
    labelled = Labelled(
        hours=sum(line["duration"] for line in chosen) / 3600,
        overrides=[f"model.train_ds.manifest_filepath={OUT}/{LABELLED}"],
        note=f"lines 1, {1 + every}, {1 + 2 * every}, ... of {recorded(layout.manifest)}",
        lines=chosen,
    )
    return labelled, total


def write_labelled(labelled: Labelled, folder: Path) -> None:
    """Writes ``labelled.jsonl`` to the folder of a run if fine-tuning needs it."""
    lines = labelled.lines
    if lines is None:
        return
    if labelled.tar is not None:
        wanted = {line["audio_filepath"] for line in lines}
        with tarfile.open(labelled.tar) as tar:
            tar.extractall(folder / "labelled", [item for item in tar if item.name in wanted], filter="data")
        lines = [line | {"audio_filepath": str(folder / "labelled" / line["audio_filepath"])} for line in lines]
    write_text(folder / LABELLED, "".join(to_line(line, ensure_ascii=False) for line in lines))


def _check_hours(wanted: float, total: float, folder: Path) -> None:
    if wanted > total:
        raise ValueError(f"{folder} has {total:.2f} h for training, less than labelled_hours={wanted:g}; set fewer")


def _train_overrides(layout: Layout, last: int | None) -> list[str]:
    paths = {"manifest_filepath": layout.manifest, "tarred_audio_filepaths": layout.tars}
    return [f"model.train_ds.{key}={recorded(path.format(last=last))}" for key, path in paths.items() if path]


def _last_shard(folder: Path, layout: Layout) -> int | None:
    """Returns the number of the last shard; None for single files.

    Raises:
        ValueError: no shards, or a gap in their numbers.
    """
    if not layout.tars:
        return None
    before, after = layout.tars.split(SHARDS)
    pattern = re.compile(rf"{re.escape(before.rpartition('/')[2])}_(\d+){re.escape(after)}")
    numbers = sorted(int(m[1]) for p in (folder / before).parent.glob(f"*{after}") if (m := pattern.fullmatch(p.name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(
            f"{folder} has no shards {before}_0{after}, {before}_1{after}, ... without a gap; it has {numbers[:20]} "
            f"({layout.description})"
        )
    return numbers[-1]
