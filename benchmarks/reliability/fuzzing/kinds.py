"""The kinds of files that are damaged, each with a command that reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.reliability.fuzzing import naming, results, validity
from benchmarks.reliability.fuzzing.archive_corruptions import ARROW, EVENTS, NPZ, TAR, TORCH
from benchmarks.reliability.fuzzing.corruptions import ANY, Corruption
from benchmarks.reliability.fuzzing.good_files import FINETUNE, PRETRAIN
from benchmarks.reliability.fuzzing.naming import Names
from benchmarks.reliability.fuzzing.results import Reader
from benchmarks.reliability.fuzzing.text_corruptions import COMPRESSED_JSON_LINES, JSON_FILE, JSON_LINES, TEXT, YAML_FILE
from benchmarks.reliability.fuzzing.torch_validity import nemo_values, torch_values
from benchmarks.reliability.fuzzing.validity import Rule

CLI = "nemo_birq.cli:main"
Arguments = tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """One kind of file, and a command that reads it in a separate folder."""

    file: str
    """Description of the kind of file."""
    inputs: Mapping[str, str]
    """For each path in the folder the good file or folder that is copied there."""
    damaged: tuple[str, ...]
    """Patterns of files of which each case damages one."""
    arguments: Arguments
    read: Reader
    """Reads the result of the command."""
    corruptions: Sequence[Corruption]
    rule: Rule
    """Rule that decides if the damage cannot be detected."""
    before: tuple[Arguments, ...] = ()
    """Commands that are run in the folder once, before a file is damaged."""
    is_optional: bool = False
    """The command also works without the file."""
    names: Names = naming.path_only
    """Further names of the damaged file in messages."""
    share: int = 2
    """Relative number of its cases, which is lower for slow commands."""
    entry: str = CLI

    @property
    def command(self) -> str:
        return self.arguments[1] if self.entry == CLI else self.arguments[0]

    @property
    def name(self) -> str:
        return f"{self.file}, {self.command}"


SPEECH = {"speech.json": "speech.json", "audio": "audio"}
SETS = SPEECH | {"dev.json": "dev.json"}
PROBED = {"train.json": "train.json", "dev.json": "dev.json", "test.json": "test.json", "audio": "audio"}
PRETRAINED = {"pretrained.nemo": "pretrained.nemo"}
RECOGNIZER = {"recognizer.nemo": "recognizer.nemo"}
RUN = {"runs": "runs"}
REPORTED = {"run": "reported"}

FEATURES = ("birq", "extract-features", "pretrained.nemo", "speech.json", "--layers", "1,2", "--out", "out", "--workers",
            "0")  # fmt: skip
LABELS = ("birq", "extract-labels", "pretrained.nemo", "speech.json", "--labels", "enhanced", "--out", "out.json",
          "--workers", "0")  # fmt: skip
SCORE = ("birq", "score", "recognizer.nemo", "speech.json", "--out", "out")
QUALITY = ("birq", "label-quality", "pretrained.nemo", "speech.json", "--alignments", "speech.ctm", "--out", "out",
           "--no-kmeans")  # fmt: skip
PROBE = ("birq", "probe", "pretrained.nemo", "--train", "train.json", "--dev", "dev.json", "--test", "test.json",
         "--epochs", "1", "--layers", "1", "--no-baselines", "--workers", "0", "--out", "out")  # fmt: skip
TRAIN = (*PRETRAIN, "model.train_ds.manifest_filepath=speech.json", "trainer.max_steps=2")
RESUME = (*PRETRAIN, "model.train_ds.manifest_filepath=speech.json", "trainer.max_steps=6")
ON_SHARDS = (
    *PRETRAIN, "model.train_ds.manifest_filepath=shards/sharded_manifests/manifest__OP_0..1_CL_.json",
    "model.train_ds.tarred_audio_filepaths=shards/audio__OP_0..1_CL_.tar", "trainer.max_steps=2",
)  # fmt: skip
UNTRAINED = ("birq", "untrained-model", *PRETRAIN[2:], "model.train_ds.manifest_filepath=speech.json", "trainer.max_steps=2")
TUNE = ("birq", "finetune", "--config-name=ctc_char", *FINETUNE)
VERIFY = ("birq", "verify-shards", "shards", "--workers", "1")
BUILD = ("birq", "make-shards", "manifest", "speech.json", "--out", "out", "--num-shards", "2", "--workers", "1", "--codec",
         "flac", "--max-skipped-share", "0.5")  # fmt: skip
ESTIMATE = ("birq", "estimate-ngram", "speech.json", "--order", "2", "--out", "out.arpa")
REPORT = ("birq", "report", "run", "--out", "out")
PAGE = results.text_files("out/index.html")


def _audio(
    suffix: str, arguments: Arguments, read: Reader, rule: Rule = validity.shortened, inputs: Mapping[str, str] | None = None
) -> Kind:
    """Makes a kind of audio files; each case damages one of those that the manifest names."""
    return Kind(
        f"audio, {suffix}", {".": suffix, **(inputs or {})}, (f"*.{suffix}",), arguments, read, ANY, rule, names=naming.stem
    )


def _manifest(
    inputs: Mapping[str, str], arguments: Arguments, read: Reader, rule: Rule = validity.manifest, name: str = "speech.json",
    share: int = 2,
) -> Kind:  # fmt: skip
    """Makes a kind of manifests of single files."""
    corruptions = JSON_LINES + ANY
    return Kind("manifest", inputs, (name,), arguments, read, corruptions, rule, names=naming.utterances, share=share)


KINDS = (
    # Manifests
    _manifest(SPEECH | RECOGNIZER, SCORE, results.json_files("out/*.json"), validity.manifest_with_texts),
    _manifest(SPEECH | PRETRAINED, FEATURES, results.features),
    _manifest(SPEECH | PRETRAINED | {"speech.ctm": "speech.ctm"}, QUALITY, results.json_files("out/*.json")),
    _manifest(PROBED | PRETRAINED, PROBE, results.json_files("out/*.json"), validity.manifest_with_texts, name="dev.json"),
    _manifest(SPEECH, BUILD, results.shards, share=3),
    _manifest(SPEECH, ESTIMATE, results.text_files("out.arpa"), validity.json_lines, share=3),
    _manifest(SETS, TRAIN, results.experiment("run"), share=1),
    _manifest(SETS | PRETRAINED, TUNE, results.experiment("recognizer"), validity.manifest_with_texts, share=1),
    # Audio and shards
    _audio("wav", FEATURES, results.features, validity.wav, PRETRAINED),
    _audio("flac", SCORE, results.json_files("out/*.json"), inputs=RECOGNIZER),
    _audio("ogg", LABELS, results.json_files("out.json"), inputs=PRETRAINED),
    _audio("opus", BUILD, results.shards),
    Kind("tar shard, wav", {"shards": "shards_wav"} | PRETRAINED, ("shards/audio_*.tar",),
         ("birq", "extract-features", "pretrained.nemo", "shards", *FEATURES[4:]), results.features, TAR + ANY,
         validity.wav_shard, names=naming.members),
    Kind("tar shard, flac", SETS | {"shards": "shards_flac"}, ("shards/audio_*.tar",), ON_SHARDS, results.experiment("run"),
         TAR + ANY, validity.never, names=naming.members, share=1),
    Kind("tar shard, flac", {"shards": "shards_flac"}, ("shards/audio_*.tar",), VERIFY, results.nothing, TAR + ANY,
         validity.never, names=naming.members),
    Kind("sharded manifest", {"shards": "shards_flac"} | PRETRAINED, ("shards/sharded_manifests/*.json",),
         ("birq", "extract-features", "pretrained.nemo", "shards", *FEATURES[4:]), results.features, JSON_LINES + ANY,
         validity.sharded_manifest, names=naming.members),
    Kind("shard card", {"shards": "shards_flac"}, ("shards/dataset_card.json",), VERIFY, results.nothing, JSON_FILE + ANY,
         validity.json_values, is_optional=True),
    Kind("index", SPEECH | PRETRAINED, ("cache/*.arrow",), FEATURES, results.features, ARROW + ANY, validity.never,
         before=(("birq", "extract-features", "pretrained.nemo", "speech.json", "--layers", "1", "--out", "first"),)),
    Kind("Lhotse cuts", {"cuts.jsonl.gz": "cuts.jsonl.gz", "audio": "audio"}, ("cuts.jsonl.gz",),
         ("birq", "make-shards", "cuts", "cuts.jsonl.gz", *BUILD[4:]), results.shards, COMPRESSED_JSON_LINES + ANY,
         validity.json_lines, names=naming.cuts),
    # Alignments, language models, scores
    Kind("CTM", SPEECH | PRETRAINED | {"speech.ctm": "speech.ctm"}, ("speech.ctm",), QUALITY,
         results.json_files("out/*.json"), TEXT + ANY, validity.ctm, names=naming.aligned),
    Kind("TextGrid", SPEECH | PRETRAINED | {"textgrids": "textgrids"}, ("textgrids/*.TextGrid",),
         (*QUALITY[:5], "textgrids", *QUALITY[6:]), results.json_files("out/*.json"), TEXT + ANY, validity.text_grid,
         names=naming.stem),
    Kind("ARPA", SPEECH | RECOGNIZER | {"words.arpa": "words.arpa"}, ("words.arpa",), (*SCORE, "--lm", "words.arpa"),
         results.json_files("out/*.json"), TEXT + ANY, validity.arpa),
    Kind("score", {"scores": "scores"}, ("scores/first.json",),
         ("birq", "compare-scores", "scores/first.json", "scores/recognizer_speech_greedy.json", "--out", "out.json"),
         results.json_files("out.json"), JSON_FILE + ANY, validity.json_values, share=4),
    Kind("score", SPEECH | RECOGNIZER, ("out/*.json",), SCORE, results.json_files("out/*.json"), JSON_FILE + ANY,
         validity.json_values, before=(SCORE,)),
    # Models
    Kind(".nemo, pretrained", SPEECH | PRETRAINED, ("pretrained.nemo",), LABELS, results.json_files("out.json"), TAR + ANY,
         nemo_values, share=4),
    Kind(".nemo, pretrained", PRETRAINED, ("pretrained.nemo",), ("birq", "export", "pretrained.nemo", "out.nemo"),
         results.nemo_files("out.nemo"), TAR + ANY, nemo_values),
    Kind(".nemo, pretrained", SETS | PRETRAINED, ("pretrained.nemo",), TUNE, results.experiment("recognizer"), TAR + ANY,
         nemo_values, share=1),
    Kind(".nemo, recognizer", SPEECH | RECOGNIZER, ("recognizer.nemo",), SCORE, results.json_files("out/*.json"), TAR + ANY,
         nemo_values),
    Kind(".ckpt", SPEECH | {"last.ckpt": "last.ckpt"}, ("last.ckpt",), ("birq", "extract-labels", "last.ckpt", *LABELS[3:]),
         results.json_files("out.json"), TORCH + ANY, torch_values, share=3),
    Kind(".ckpt", SETS | RUN, ("runs/run/checkpoints/*-last.ckpt",), RESUME, results.experiment("run"), TORCH + ANY,
         torch_values, share=1),
    Kind("-EMA.ckpt", SETS | RUN, ("runs/run/checkpoints/*-last-EMA.ckpt",), (*RESUME, "+exp_manager.ema.enable=true"),
         results.experiment("run"), TORCH + ANY, torch_values, share=1),
    Kind("teacher", SPEECH | {"dev.json": "dev.json", "teacher.pt": "teacher.pt"}, ("teacher.pt",),
         (*UNTRAINED, "model.birq.relabelling.teacher=teacher.pt", "model.birq.loss.enhanced_weight=0"),
         results.nemo_files("runs/run/*.nemo"), TORCH + ANY, torch_values),
    # Stores, reports, configurations
    Kind("features", SPEECH | PRETRAINED, ("out/part-*.npz",), FEATURES, results.features, NPZ + ANY, validity.never,
         before=(FEATURES,)),
    Kind("lists of features", SPEECH | PRETRAINED, ("out/part-*.jsonl", "out/part-*.sha256", "out/settings.json"), FEATURES,
         results.features, TEXT + ANY, validity.never, before=(FEATURES,), share=1),
    Kind("labels store", SPEECH | PRETRAINED, ("out.json", "out.json.settings.json"), LABELS, results.json_files("out.json"),
         TEXT + ANY, validity.never, before=(LABELS,)),
    Kind("alarms.json", REPORTED, ("run/alarms.json",), REPORT, PAGE, JSON_FILE + ANY, validity.json_values,
         is_optional=True),
    Kind("label quality", REPORTED, ("run/label_quality*.json",), REPORT, PAGE, JSON_FILE + ANY, validity.json_values,
         is_optional=True),
    Kind("event file", REPORTED, ("run/version_0/events.out*",), REPORT, PAGE, EVENTS + ANY, validity.never, share=3,
         names=naming.event_files),
    Kind("hparams.yaml", REPORTED, ("run/version_0/hparams.yaml",), REPORT, PAGE, YAML_FILE + ANY, validity.yaml_values,
         is_optional=True, share=1),
    Kind("cmd-args.log", REPORTED, ("run/cmd-args.log",), REPORT, PAGE, TEXT + ANY, validity.any_text, is_optional=True,
         share=1),
    Kind("record of an experiment", {"records": "records"}, ("records/*.json",),
         ("draw_results.py", "records", "--out", "out/page.md"), results.text_files("out/page*.md"), JSON_FILE + ANY,
         validity.experiment_record, share=3, is_optional=True, entry="benchmarks.reliability.fuzzing.entries:draw_results"),
    Kind("tokenizer", SETS | PRETRAINED | {"tokenizer": "tokenizer"}, ("tokenizer/tokenizer.model",),
         ("birq", "finetune", "--config-name=ctc_bpe", *FINETUNE, "model.tokenizer.dir=tokenizer"),
         results.experiment("recognizer"), ANY, validity.sentencepiece, share=1),
    Kind("configuration", SPEECH | {"dev.json": "dev.json", "conf": "conf"},
         ("conf/birq_conformer_tiny.yaml", "conf/base.yaml", "conf/objective/default.yaml"),
         ("birq", "untrained-model", "--config-path=conf", *UNTRAINED[2:]), results.nemo_files("runs/run/*.nemo"),
         YAML_FILE + ANY, validity.yaml_values, names=naming.changed_keys),
    Kind("configuration", SETS | PRETRAINED | {"conf": "conf"}, ("conf/finetune/ctc_char.yaml", "conf/finetune/base.yaml"),
         ("birq", "finetune", "--config-path=conf/finetune", *TUNE[2:]), results.experiment("recognizer"), YAML_FILE + ANY,
         validity.yaml_values, names=naming.changed_keys, share=1),
)  # fmt: skip
