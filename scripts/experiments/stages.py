"""The commands of one run, as a user would give them; folders of the machine are ``$CORPUS`` and ``$OUT`` in them."""

import copy
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from experiments.budgets import ROOT, Pretraining, Setting, plain
from experiments.corpora import CORPUS, OUT, Corpus

POINTS = 40  # of a curve, when the budget does not say how often it is logged
PRETRAINED = "pretrain/checkpoints/pretrain.nemo"
TEACHER_NEMO = "teacher/checkpoints/teacher.nemo"
SCORES = "finetune/scores/test.json"
LABELS = "labels.json"


@dataclass(frozen=True)
class Stage:
    """One command."""

    name: str
    """``untrained``, ``teacher`` (first stage), ``clustering``, ``pretrain``, ``labels`` or ``finetune``."""
    arguments: tuple[str, ...]
    result: str
    """File that it ends with, relative to ``$OUT``."""
    steps: int = 0
    resumes: bool = False
    """It goes on where it was interrupted; else its folder, ``$OUT/<name>``, is removed before it begins again."""

    @property
    def script(self) -> str:
        return self.arguments[0]

    @property
    def line(self) -> str:
        """For people, to be run in the repository with CORPUS and OUT set."""
        return " ".join(["python", *map(_quoted, self.arguments)])


@dataclass(frozen=True, eq=False)
class Run:
    """A setting on a corpus, and its commands."""

    setting: Setting
    corpus: Corpus
    stages: tuple[Stage, ...]
    config: dict[str, Any]
    """Of the pretraining (of its last stage), resolved: ``model``, ``trainer``, ``seed``."""
    finetune_config: dict[str, Any] | None

    @property
    def place(self) -> Path:
        """Under the folder of runs."""
        return Path(self.setting.budget, self.corpus.name, self.setting.run_name)

    @property
    def file(self) -> Path:
        """Under the folder of results."""
        return self.place.with_name(f"{self.place.name}.json")

    @property
    def commands(self) -> list[str]:
        labelled = self.corpus.labelled
        written = f"# {OUT}/labelled.jsonl: {labelled.note}, with absolute paths"
        needed = labelled.lines is not None and any(stage.name == "finetune" for stage in self.stages)
        return [*([written] if needed else []), *(stage.line for stage in self.stages)]

    @property
    def setting_hash(self) -> str:
        """Of all that decides what comes out, but the contents of the corpus and the versions of the software."""
        made = [self.commands, self.config, self.finetune_config]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def make_run(setting: Setting, corpus: Corpus) -> Run:
    """The commands of a setting on a corpus.

    Raises:
        ValueError: overrides or a relabelling that do not fit the configuration; naming the run.
    """
    method = setting.method
    stages: list[Stage] = []
    if not method.pretraining:
        stages.append(_pretraining(setting, corpus, "untrained", 0, method.overrides))
    elif method.relabelling:
        stages += _relabelling(setting, corpus)
        _check_relabelling(setting, resolve("conf", stages[0], setting))
    else:
        stages.append(_pretraining(setting, corpus, "pretrain", setting.pretrain.steps, method.overrides))
    config = resolve("conf", stages[-1], setting)
    if corpus.layout.alignments:
        stages.append(_labels(corpus, stages[-1].result))
    finetune_config = None
    if method.finetune:
        nemo = "untrained/untrained.nemo" if not method.pretraining else PRETRAINED
        stages.append(_finetuning(setting, corpus, nemo))
        finetune_config = resolve("conf/finetune", stages[-1], setting)
    return Run(setting, corpus, tuple(stages), config, finetune_config)


def resolve(folder: str, stage: Stage, setting: Setting) -> dict[str, Any]:
    """The configuration that a command composes, without what only names places.

    Raises:
        ValueError: an override that does not fit.
    """
    try:
        return copy.deepcopy(_compose(folder, *stage.arguments[1:]))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{setting.run_name}: {stage.script} cannot be configured so: {error}") from error


@cache
def _compose(folder: str, config: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / folder), version_base=None):
        found = plain(compose(config.removeprefix("--config-name="), overrides=list(overrides)))
    return {key: value for key, value in found.items() if key not in ("name", "exp_manager")}


def _relabelling(setting: Setting, corpus: Corpus) -> list[Stage]:
    """BEST-RQ for half of the steps, k-means of one of its layers, the rest on these labels."""
    relabelling, total = setting.method.relabelling, setting.pretrain.steps
    first = total // 2
    clustering = Stage(
        "clustering",
        (
            "scripts/cluster_labels.py", f"{OUT}/{TEACHER_NEMO}", f"--layer={relabelling.layer}",
            f"--clusters={relabelling.clusters}", *corpus.clustering_data,
            *([f"--hours={relabelling.hours}"] if relabelling.hours else []), f"--out={OUT}/teacher.pt",
        ),
        "teacher.pt",
    )  # fmt: skip
    second = [
        *setting.method.overrides, f"model.birq.relabelling.teacher={OUT}/teacher.pt",
        f"model.birq.quantizer.num_codes={relabelling.clusters}", "model.birq.quantizer.num_books=1",
    ]  # fmt: skip
    return [
        _pretraining(setting, corpus, "teacher", first, setting.method.overrides),
        clustering,
        _pretraining(setting, corpus, "pretrain", total - first, second),
    ]


def _check_relabelling(setting: Setting, first: dict[str, Any]) -> None:
    """Looks, before the first stage is trained, at what would fail after it; ``first`` is its configuration."""
    relabelling, depth = setting.method.relabelling, first["model"]["encoder"]["n_layers"]
    if relabelling.layer > depth:
        raise ValueError(f"{setting.run_name}: relabelling.layer={relabelling.layer}: the encoder has {depth} layers")


def _pretraining(setting: Setting, corpus: Corpus, name: str, steps: int, overrides: list[str]) -> Stage:
    common = [
        f"--config-name={setting.pretrain.config}", *corpus.data, *corpus.validation,
        f"seed={setting.seed}", f"name={name}", f"exp_manager.exp_dir={OUT}",
    ]  # fmt: skip
    if steps == 0:
        arguments = ["scripts/untrained_model.py", *common, *setting.pretrain.overrides, *overrides]
        return Stage(name, tuple(arguments), f"{name}/{name}.nemo")
    length = [
        f"trainer.max_steps={steps}", f"trainer.val_check_interval={_interval(setting.pretrain, steps)}",
        f"trainer.log_every_n_steps={max(1, steps // POINTS)}", "trainer.enable_progress_bar=false",
        "exp_manager.checkpoint_callback_params.save_top_k=-1",
    ]  # fmt: skip
    arguments = ["scripts/speech_pre_training.py", *common, *length, *setting.pretrain.overrides, *overrides]
    return Stage(name, tuple(arguments), f"{name}/checkpoints/{name}.nemo", steps, resumes=True)


def _interval(pretrain: Pretraining, steps: int) -> int:
    """Between validations of a stage: rounded down, or the last one would come after its end."""
    return steps // max(1, round(pretrain.checkpoints * steps / pretrain.steps))


def _labels(corpus: Corpus, nemo: str) -> Stage:
    arguments = (
        "scripts/label_quality_over_training.py", f"{OUT}/{nemo}",
        f"--manifest={corpus.path(corpus.layout.validation)}", f"--alignments={corpus.path(corpus.layout.alignments)}",
        f"--out={OUT}/{LABELS}",
    )  # fmt: skip
    return Stage("labels", arguments, LABELS)


def _finetuning(setting: Setting, corpus: Corpus, nemo: str) -> Stage:
    finetune = setting.finetune
    steps = finetune.steps
    arguments = (
        "scripts/speech_to_text_finetune.py", f"--config-name={finetune.config}", f"init_from_nemo_model={OUT}/{nemo}",
        *corpus.labelled.overrides, *corpus.validation, f"test_manifests=['test={corpus.path(corpus.layout.test)}']",
        f"seed={setting.seed}", "name=finetune", f"exp_manager.exp_dir={OUT}", "exp_manager.resume_if_exists=true",
        f"trainer.max_steps={steps}", "trainer.max_epochs=-1",
        f"trainer.val_check_interval={steps // finetune.validations}", "trainer.check_val_every_n_epoch=null",
        f"trainer.log_every_n_steps={max(1, steps // POINTS)}", *finetune.overrides,
    )  # fmt: skip
    return Stage("finetune", arguments, SCORES, steps)


def fill_in(argument: str, corpus: Path, out: Path) -> str:
    """An argument for this machine."""
    return argument.replace(CORPUS, str(corpus)).replace(OUT, str(out))


def _quoted(argument: str) -> str:
    return argument if re.fullmatch(r"[\w$./,:=+~@%-]+", argument) else '"' + re.sub(r'(["\\`])', r"\\\1", argument) + '"'
