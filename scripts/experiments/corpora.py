"""Where a corpus has its manifests: conf/experiments/corpora.yaml; and its labelled part for fine-tuning."""

import json
import re
import tarfile
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from experiments.budgets import FOLDER, ROOT
from nemo_birq.data.manifests import check_manifest_of_files, read_manifest

CORPUS, OUT = "$CORPUS", "$OUT"  # what stands for folders of the machine in all that is recorded


@dataclass
class Layout:
    """Keys of a block of corpora.yaml; paths are relative to the folder of the corpus."""

    description: str = ""
    folder: str | None = None
    """Relative to this repository; None: it is given as NAME=FOLDER."""
    manifest: str = ""
    """Of the audio for pretraining; ``{last}`` is the number of the last shard."""
    tars: str | None = None
    """None: the manifest names single files."""
    validation: str = ""
    test: str = ""
    alignments: str | None = None
    """CTM of the validation set; None: there is none, and no label quality."""
    labelled_hours: float = 1.0
    labelled_folder: str | None = None
    """Of shards, all of which are the labelled part, in place of some of those for pretraining."""


@dataclass(frozen=True)
class Labelled:
    """The part of the training audio whose texts fine-tuning sees."""

    hours: float
    overrides: list[str]
    """Of ``model.train_ds``."""
    lines: list[dict] | None
    """Of a manifest that is to be written as ``$OUT/labelled.jsonl``; None: there is one."""
    note: str
    """What was chosen, in words."""
    tar: Path | None = None
    """Shard that holds the audio of ``lines``, to be unpacked as ``$OUT/labelled``; None: single files, or whole shards."""


@dataclass(frozen=True)
class Corpus:
    """A corpus on this machine."""

    name: str
    folder: Path
    layout: Layout
    last_shard: int | None
    labelled: Labelled
    hours: float
    """Of the audio for pretraining."""

    def path(self, relative: str) -> str:
        """As it is recorded."""
        return f"{CORPUS}/{relative}"

    @property
    def data(self) -> list[str]:
        """Pretraining audio, ``train_ds``."""
        return _dataset(self.layout.manifest, self.layout.tars, self.last_shard)

    @property
    def clustering_data(self) -> list[str]:
        """The same for scripts/cluster_labels.py."""
        manifest, tars = (value and value.format(last=self.last_shard) for value in (self.layout.manifest, self.layout.tars))
        return [f"--manifest={self.path(manifest)}", *([f"--tarred-audio={self.path(tars)}"] if tars else [])]

    @property
    def validation(self) -> list[str]:
        return [f"model.validation_ds.manifest_filepath={self.path(self.layout.validation)}"]


def read_layouts() -> dict[str, Layout]:
    """The corpora that are known, by name.

    Raises:
        ValueError: no yaml, or a key that does not exist.
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
    """Opens ``NAME=FOLDER``, or ``NAME`` where the corpus is in this repository.

    Args:
        argument: as the user gives it.
        labelled_hours: for fine-tuning, about; None: what corpora.yaml says.

    Raises:
        ValueError: a corpus that is not known, a folder without its shards.
        FileNotFoundError: a folder, manifest or audio file that is not there.
    """
    layouts = read_layouts()
    name, equals, folder = argument.partition("=")
    if name not in layouts:
        raise ValueError(f"--corpus {name}: there are {', '.join(layouts)}; conf/experiments/corpora.yaml describes them")
    layout = layouts[name]
    if not equals and layout.folder is None:
        raise ValueError(f"--corpus {name}: give its folder, --corpus {name}=FOLDER ({layout.description})")
    place = Path(folder).expanduser().resolve() if equals else ROOT / layout.folder
    if not place.is_dir():
        raise FileNotFoundError(f"--corpus {name}: {place} is not a folder ({layout.description})")
    last = _last_shard(place, layout)
    files = [file for file in (layout.validation, layout.test, layout.alignments) if file]
    if last is None:
        files.append(layout.manifest)
    missing = [file for file in files if not (place / file).is_file()]
    if missing:
        raise FileNotFoundError(f"--corpus {name}: {place} has no {', no '.join(missing)} ({layout.description})")
    for manifest in (layout.validation, layout.test):
        check_manifest_of_files(str(place / manifest))
    choose = choose_files if last is None else choose_shards
    labelled, hours = choose(place, layout, last, labelled_hours or layout.labelled_hours)
    if layout.labelled_folder:
        own = replace(layout, **{key: _moved(getattr(layout, key), layout.labelled_folder) for key in ("manifest", "tars")})
        shards = _last_shard(place, own)
        total = _hours(place, own, shards)
        labelled = Labelled(sum(total), _dataset(own.manifest, own.tars, shards), None, f"all of {layout.labelled_folder}")
    return Corpus(name, place, layout, last, labelled, hours)


def _moved(path: str, folder: str) -> str:
    """The same path with another first folder."""
    return f"{folder}/{path.partition('/')[2]}"


def _hours(folder: Path, layout: Layout, last: int) -> list[float]:
    """Of each shard."""
    pattern = layout.manifest.replace("__OP_0..{last}_CL_", "_{number}")
    files = [folder / pattern.format(number=number) for number in range(last + 1)]
    return [sum(line["duration"] for line in read_manifest(str(file))) / 3600 for file in files]


def choose_shards(folder: Path, layout: Layout, last: int, wanted: float) -> tuple[Labelled, float]:
    """The first shards that have ``wanted`` hours together, or of less than a shard its first utterances; the hours of all.

    Raises:
        ValueError: all shards together have less.
    """
    hours = _hours(folder, layout, last)
    _check_hours(wanted, sum(hours), folder)
    if wanted < hours[0]:
        return _choose_utterances(folder, layout, wanted), sum(hours)
    number = next(n for n in range(1, len(hours) + 1) if sum(hours[:n]) >= wanted - 1e-9)
    chosen = Labelled(
        sum(hours[:number]), _dataset(layout.manifest, layout.tars, number - 1), None, f"the first {number} shards"
    )
    return chosen, sum(hours)


def _choose_utterances(folder: Path, layout: Layout, wanted: float) -> Labelled:
    """The first utterances of the first shard that have ``wanted`` hours together."""
    lines = read_manifest(str(folder / layout.manifest.replace("__OP_0..{last}_CL_", "_0")))
    ends = list(accumulate(line["duration"] / 3600 for line in lines))
    number = next(n for n, end in enumerate(ends, start=1) if end >= wanted - 1e-9)
    return Labelled(
        hours=ends[number - 1],
        overrides=[f"model.train_ds.manifest_filepath={OUT}/labelled.jsonl"],
        lines=[{key: value for key, value in line.items() if key != "shard_id"} for line in lines[:number]],
        note=f"the first {number} utterances of shard 0, unpacked",
        tar=folder / layout.tars.replace("__OP_0..{last}_CL_", "_0"),
    )


def choose_files(folder: Path, layout: Layout, last: None, wanted: float) -> tuple[Labelled, float]:
    """Every m-th line of the manifest, from the first on, with absolute paths; and the hours of all.

    Raises:
        ValueError: all lines together have less than ``wanted`` hours.
    """
    lines = check_manifest_of_files(str(folder / layout.manifest))
    total = sum(line["duration"] for line in lines) / 3600
    _check_hours(wanted, total, folder)
    every = max(1, int(total / wanted))
    chosen = [
        line | {"audio_filepath": str((folder / layout.manifest).parent / line["audio_filepath"])} for line in lines[::every]
    ]
    found = Labelled(
        hours=sum(line["duration"] for line in chosen) / 3600,
        overrides=[f"model.train_ds.manifest_filepath={OUT}/labelled.jsonl"],
        lines=chosen,
        note=f"lines 1, {1 + every}, {1 + 2 * every}, ... of {CORPUS}/{layout.manifest}",
    )
    return found, total


def write_labelled(labelled: Labelled, folder: Path) -> None:
    """Writes ``labelled.jsonl`` to the folder of a run, where fine-tuning needs it."""
    if labelled.lines is None:
        return
    lines = labelled.lines
    if labelled.tar is not None:
        wanted = {line["audio_filepath"] for line in lines}
        with tarfile.open(labelled.tar) as tar:
            tar.extractall(folder / "labelled", [item for item in tar if item.name in wanted], filter="data")
        lines = [line | {"audio_filepath": str(folder / "labelled" / line["audio_filepath"])} for line in lines]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "labelled.jsonl").write_text(text, encoding="utf-8")


def _check_hours(wanted: float, total: float, folder: Path) -> None:
    if wanted > total:
        raise ValueError(f"{folder} has {total:.2f} h for training, less than labelled_hours={wanted:g} asks for")


def _dataset(manifest: str, tars: str | None, last: int | None) -> list[str]:
    found = [f"model.train_ds.manifest_filepath={CORPUS}/{manifest.format(last=last)}"]
    return found + ([f"model.train_ds.tarred_audio_filepaths={CORPUS}/{tars.format(last=last)}"] if tars else [])


def _last_shard(folder: Path, layout: Layout) -> int | None:
    if not layout.tars:
        return None
    before, after = layout.tars.split("__OP_0..{last}_CL_")
    pattern = re.compile(rf"{re.escape(before.rpartition('/')[2])}_(\d+){re.escape(after)}")
    numbers = sorted(int(m[1]) for p in (folder / before).parent.glob(f"*{after}") if (m := pattern.fullmatch(p.name)))
    if not numbers or numbers != list(range(len(numbers))):
        raise ValueError(
            f"{folder} has no shards {before}_0{after}, {before}_1{after}, ... without a gap; it has {numbers[:20]} "
            f"({layout.description})"
        )
    return numbers[-1]
