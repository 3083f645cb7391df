"""Small good input files, most of them written by the commands themselves, each made when it is first needed."""

import json
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import soundfile
from praatio import textgrid
from praatio.data_classes.interval_tier import IntervalTier

from benchmarks.reliability.fuzzing.stage import Stage

ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "tarred_manifests"
SETS = {"speech": 4, "dev": 3, "test": 3, "train": 16}
"""Names and numbers of utterances of the small data sets."""
ENCODER = ("model.encoder.n_layers=2", "model.encoder.d_model=32", "model.encoder.subsampling_conv_channels=8")
QUIET = ("trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false", "trainer.accelerator=cpu")
PRETRAIN = (
    "birq", "pretrain", "--config-name=birq_conformer_tiny", "name=run", *ENCODER, *QUIET, "trainer.devices=1",
    "trainer.log_every_n_steps=1", "+trainer.limit_val_batches=1", "trainer.val_check_interval=2",
    "model.train_ds.batch_duration=5", "model.validation_ds.batch_duration=8", "model.birq.quantizer.num_codes=16",
    "model.birq.watch.probe_seconds=2", "model.birq.watch.learned_by_step=2", "enhanced_start_step=1",
    "enhanced_ramp_steps=1", "model.optim.sched.warmup_steps=1", "exp_manager.exp_dir=runs",
    "model.validation_ds.manifest_filepath=dev.json",
)  # fmt: skip
FINETUNE = (
    "name=recognizer", "init_from_nemo_model=pretrained.nemo", *QUIET, "trainer.devices=1", "trainer.precision=32",
    "trainer.log_every_n_steps=1", "trainer.max_steps=2", "trainer.limit_train_batches=2", "+trainer.limit_val_batches=1",
    "model.train_ds.batch_duration=8", "model.validation_ds.batch_duration=8", "model.train_ds.num_buckets=2",
    "model.train_ds.num_workers=0", "model.validation_ds.num_workers=0", "model.train_ds.pin_memory=false",
    "model.validation_ds.pin_memory=false", "trainer.num_sanity_val_steps=0", "exp_manager.exp_dir=runs",
    "exp_manager.resume_if_exists=true", "model.train_ds.manifest_filepath=speech.json",
    "model.validation_ds.manifest_filepath=dev.json",
)  # fmt: skip


class GoodFiles:
    """A folder of good files.

    Args:
        stage: runs the commands that make them.
    """

    def __init__(self, stage: Stage):
        self.stage, self.folder = stage, stage.folder / "good"
        self.folder.mkdir(parents=True)

    def get(self, name: str) -> Path:
        """Returns a file or folder by its name in ``MAKERS``."""
        path = self.folder / name
        if not path.exists():
            maker, *needed = MAKERS[name]
            for other in needed:
                self.get(other)
            maker(self, path)
        return path

    def birq(self, *arguments: str) -> None:
        """Runs a command in the folder."""
        self.stage.succeed(arguments, self.folder)


def _speech(good: GoodFiles, path: Path) -> None:
    """Writes audio files, manifests and alignments: the shortest utterances of the embedded corpus."""
    lines = [json.loads(line) for line in (CORPUS / "validation" / "validation.json").read_text().splitlines()]
    lines = sorted(lines, key=lambda line: line["duration"])[: sum(SETS.values())]
    (good.folder / "audio").mkdir(exist_ok=True)
    phones = (CORPUS / "validation" / "phones.ctm").read_text().splitlines(keepends=True)
    for name, number in SETS.items():
        chosen, lines = lines[:number], lines[number:]
        for line in chosen:
            signal, rate = soundfile.read(CORPUS / "validation" / line["audio_filepath"])
            line["audio_filepath"] = f"audio/{Path(line['audio_filepath']).stem}.wav"
            soundfile.write(good.folder / line["audio_filepath"], signal, rate)
        _write_lines(good.folder / f"{name}.json", chosen)
        names = {Path(line["audio_filepath"]).stem for line in chosen}
        (good.folder / f"{name}.ctm").write_text("".join(row for row in phones if row.split()[0] in names))


def _write_lines(path: Path, lines: list[dict]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _speech_as(suffix: str) -> Callable[[GoodFiles, Path], None]:
    """Returns a maker of the audio of ``speech.json`` in another format, with a manifest in the same folder."""

    def make(good: GoodFiles, folder: Path) -> None:
        folder.mkdir()
        lines = [json.loads(line) for line in good.get("speech.json").read_text().splitlines()]
        for line in lines:
            signal, rate = soundfile.read(good.folder / line["audio_filepath"])
            line["audio_filepath"] = f"{Path(line['audio_filepath']).stem}.{suffix}"
            format, subtype = ("OGG", "OPUS") if suffix == "opus" else (suffix.upper(), None)
            soundfile.write(folder / line["audio_filepath"], signal, rate, format=format, subtype=subtype)
        _write_lines(folder / "speech.json", lines)

    return make


def _text_grids(good: GoodFiles, folder: Path) -> None:
    folder.mkdir()
    rows = defaultdict(list)
    for name, _, begin, duration, phone in (row.split() for row in good.get("speech.ctm").read_text().splitlines()):
        begin = max(float(begin), rows[name][-1][1] if rows[name] else 0.0)
        rows[name].append((begin, max(begin + 0.001, float(begin) + float(duration)), phone))
    for name, intervals in rows.items():
        grid = textgrid.Textgrid()
        grid.addTier(IntervalTier("phones", intervals, 0, intervals[-1][1]))
        grid.save(str(folder / f"{name}.TextGrid"), format="long_textgrid", includeBlankSpaces=True)


def _cuts(good: GoodFiles, path: Path) -> None:
    from lhotse import CutSet, MonoCut, Recording, SupervisionSegment

    cuts = []
    for line in map(json.loads, good.get("speech.json").read_text().splitlines()):
        recording = Recording.from_file(good.folder / line["audio_filepath"])
        recording.sources[0].source = line["audio_filepath"]
        spoken = SupervisionSegment(recording.id, recording.id, 0.0, recording.duration, text=line["text"])
        cuts.append(MonoCut(recording.id, 0.0, recording.duration, 0, [spoken], recording=recording))
    CutSet.from_cuts(cuts).to_file(path)


def _shards(good: GoodFiles, folder: Path) -> None:
    good.birq(
        "birq", "make-shards", "manifest", "speech.json", "--out", folder.name, "--num-shards", "2", "--workers", "1",
        "--codec", folder.name.removeprefix("shards_"),
    )  # fmt: skip


def _pretrained(good: GoodFiles, folder: Path) -> None:
    """Trains in ``runs/run``; keeps the checkpoints, the ``.nemo`` and the averaged weights of a second run."""
    data = ("model.train_ds.manifest_filepath=speech.json", "trainer.max_steps=4")
    good.birq(*PRETRAIN, *data, "+exp_manager.ema.enable=true", "exp_manager.checkpoint_callback_params.save_top_k=1")


def _found(pattern: str, without: str = "-EMA") -> Callable[[GoodFiles, Path], None]:
    """Returns a maker that copies the newest file that a run has left."""

    def make(good: GoodFiles, path: Path) -> None:
        files = [file for file in good.folder.glob(pattern) if without not in file.name]
        shutil.copy(max(files, key=lambda file: file.stat().st_mtime_ns), path)

    return make


def _recognizer(good: GoodFiles, path: Path) -> None:
    good.birq("birq", "finetune", "--config-name=ctc_char", *FINETUNE)
    _found("runs/recognizer/checkpoints/*.nemo")(good, path)


def _tokenizer(good: GoodFiles, folder: Path) -> None:
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model

    folder.mkdir()
    texts = [json.loads(line)["text"] for name in SETS for line in good.get(f"{name}.json").read_text().splitlines()]
    (good.folder / "texts.txt").write_text("\n".join(texts))
    create_spt_model(
        str(good.folder / "texts.txt"), 32, sample_size=-1, do_lower_case=False, tokenizer_type="unigram",
        output_dir=str(folder),
    )  # fmt: skip


def _language_model(good: GoodFiles, path: Path) -> None:
    good.birq("birq", "estimate-ngram", "speech.json", "--out", path.name, "--order", "2")


def _teacher(good: GoodFiles, path: Path) -> None:
    good.birq(
        "birq", "cluster-labels", "pretrained.nemo", "speech.json", "--layer", "1", "--clusters", "16", "--workers", "1",
        "--out", path.name,
    )  # fmt: skip


def _scores(good: GoodFiles, folder: Path) -> None:
    good.birq("birq", "score", "recognizer.nemo", "speech.json", "--out", folder.name)
    second = json.loads(next(folder.glob("*.json")).read_text())
    (folder / "first.json").write_text(json.dumps(second))
    good.birq("birq", "score", "recognizer.nemo", "speech.json", "--out", folder.name, "--lm", "words.arpa")


def _reported(good: GoodFiles, folder: Path) -> None:
    """Writes the folder of a run with few curves, since drawing takes longest, and with its label quality."""
    from torch.utils.tensorboard import SummaryWriter

    from nemo_birq.report.events import scalars

    shutil.copytree(good.folder / "runs" / "run", folder, ignore=shutil.ignore_patterns("*.ckpt", "*.nemo", "events.out*"))
    with SummaryWriter(str(folder / "version_0")) as writer:
        for tag, points in scalars(good.folder / "runs" / "run").items():
            if tag in ("train_anchor_loss", "val_anchor_loss"):
                for step, value in points:
                    writer.add_scalar(tag, value, step)
    good.birq(
        "birq", "label-quality", "pretrained.nemo", "speech.json", "--alignments", "speech.ctm", "--out", folder.name,
        "--no-kmeans",
    )  # fmt: skip


def _copied(source: str, pattern: str) -> Callable[[GoodFiles, Path], None]:
    """Returns a maker that copies files of the checkout."""

    def make(good: GoodFiles, folder: Path) -> None:
        for path in sorted((ROOT / source).glob(pattern)):
            target = folder / path.relative_to(ROOT / source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)

    return make


MAKERS: dict[str, tuple] = {
    **dict.fromkeys(("audio", *(f"{one}.{kind}" for one in SETS for kind in ("json", "ctm"))), (_speech,)),
    **{suffix: (_speech_as(suffix), "speech.json") for suffix in ("wav", "flac", "ogg", "opus")},
    "textgrids": (_text_grids, "speech.ctm"),
    "cuts.jsonl.gz": (_cuts, "speech.json"),
    "shards_flac": (_shards, "speech.json"),
    "shards_wav": (_shards, "speech.json"),
    "runs": (_pretrained, "speech.json", "dev.json"),
    "pretrained.nemo": (_found("runs/run/checkpoints/*.nemo"), "runs"),
    "reported": (_reported, "pretrained.nemo"),
    "last.ckpt": (_found("runs/run/checkpoints/*-last.ckpt"), "runs"),
    "recognizer.nemo": (_recognizer, "pretrained.nemo"),
    "tokenizer": (_tokenizer, "speech.json"),
    "words.arpa": (_language_model, "speech.json"),
    "teacher.pt": (_teacher, "pretrained.nemo"),
    "scores": (_scores, "recognizer.nemo", "words.arpa"),
    "conf": (_copied("conf", "**/*.yaml"),),
    "records": (_copied("docs/results/experiments/cpu/synthetic", "b*q_seed[01].json"),),
}
"""For each file or folder the function that makes it, and the files that must be there before."""
