"""Commands of a run, as a user would type them; ``$CORPUS`` and ``$OUT`` stand for folders of the machine."""

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
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.budgets import ROOT, Pretraining, Setting
from experiments.corpora import CORPUS, LABELLED, OUT, Corpus, recorded

POINTS = 40  # logged points of a curve, unless the budget sets the interval
PRETRAINED = "pretrain/checkpoints/pretrain.nemo"
TEACHER_NEMO = "teacher/checkpoints/teacher.nemo"
UNTRAINED = "untrained/untrained.nemo"
SCORES = "finetune/scores/test.json"
LABELS = "labels.json"


@dataclass(frozen=True)
class Stage:
    """One command of a run."""

    name: str
    """``untrained``, ``teacher`` (first stage), ``clustering``, ``pretrain``, ``labels`` or ``finetune``."""
    arguments: tuple[str, ...]
    result: str
    """The file that the command writes last, relative to ``$OUT``."""
    steps: int = 0
    resumes: bool = False
    """True: an interrupted command continues; False: ``$OUT/<name>`` is removed and the command starts again."""

    @property
    def script(self) -> str:
        return self.arguments[0]

    @property
    def line(self) -> str:
        """The command line, to run in the repository with CORPUS and OUT set."""
        return " ".join(["python", *map(_quoted, self.arguments)])


@dataclass(frozen=True, eq=False)
class RunPlan:
    """A setting on a corpus, with the commands and resolved configurations that it needs."""

    setting: Setting
    corpus: Corpus
    stages: tuple[Stage, ...]
    config: dict[str, Any]
    """Resolved configuration of the last pretraining stage: ``model``, ``trainer``, ``seed``."""
    finetune_config: dict[str, Any] | None

    @property
    def name(self) -> str:
        return self.setting.run_name

    @property
    def folder(self) -> Path:
        """Folder of the run, relative to ``--out``."""
        return Path(self.setting.budget, self.corpus.name, self.name)

    @property
    def result_file(self) -> Path:
        """File of the run's result, relative to ``--results``."""
        return self.folder.with_name(f"{self.name}.json")

    @property
    def commands(self) -> list[str]:
        labelled = self.corpus.labelled
        written = f"# {OUT}/{LABELLED}: {labelled.note}, with absolute paths"
        needed = labelled.lines is not None and any(stage.name == "finetune" for stage in self.stages)
        return [*([written] if needed else []), *(stage.line for stage in self.stages)]

    @property
    def setting_hash(self) -> str:
        """Hash of the commands and the resolved configurations; excludes corpus contents and software versions."""
        made = [self.commands, self.config, self.finetune_config]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16]


def plan_run(setting: Setting, corpus: Corpus) -> RunPlan:
    """Lists the commands of a setting on a corpus.

    Raises:
        ValueError: overrides or a relabelling that do not fit the configuration; the message names the run.
    """
    method = setting.method
    stages: list[Stage] = []
    if not method.pretraining:
        stages.append(_pretraining(setting, corpus, "untrained", 0, method.overrides))
    elif method.relabelling:
        stages += _relabelling(setting, corpus)
        _check_layer(setting, resolve("conf", stages[0], setting))
    else:
        stages.append(_pretraining(setting, corpus, "pretrain", setting.pretrain.steps, method.overrides))
    config, nemo = resolve("conf", stages[-1], setting), stages[-1].result
    if corpus.layout.alignments:
        stages.append(_labels(corpus, nemo))
    finetune_config = None
    if method.finetune:
        stages.append(_finetuning(setting, corpus, nemo))
        finetune_config = resolve("conf/finetune", stages[-1], setting)
    return RunPlan(setting, corpus, tuple(stages), config, finetune_config)


def resolve(folder: str, stage: Stage, setting: Setting) -> dict[str, Any]:
    """Composes the configuration of a command, without the keys that only name folders.

    Raises:
        ValueError: an override that does not fit.
    """
    try:
        return copy.deepcopy(_compose(folder, *stage.arguments[1:]))
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(f"{setting.run_name}: the overrides of {stage.script} do not fit: {error}") from error


@cache
def _compose(folder: str, config: str, *overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(ROOT / folder), version_base=None):
        composed = compose(config.removeprefix("--config-name="), overrides=list(overrides))
    plain = OmegaConf.to_container(composed, resolve=True, throw_on_missing=False)  # missing keys stay ???
    return {key: value for key, value in plain.items() if key not in ("name", "exp_manager")}


def _relabelling(setting: Setting, corpus: Corpus) -> list[Stage]:
    """Trains BEST-RQ for half of the steps, clusters one of its layers, and trains on these labels for the rest."""
    relabelling, total = setting.method.relabelling, setting.pretrain.steps
    first = total // 2
    clustering = Stage(
        "clustering",
        (
            "scripts/cluster_labels.py", f"{OUT}/{TEACHER_NEMO}", f"--layer={relabelling.layer}",
            f"--clusters={relabelling.clusters}", *corpus.clustering_arguments,
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


def _check_layer(setting: Setting, first: dict[str, Any]) -> None:
    """Checks, before the first stage is trained, that its configuration ``first`` has the layer to cluster."""
    layer, depth = setting.method.relabelling.layer, first["model"]["encoder"]["n_layers"]
    if layer > depth:
        raise ValueError(f"{setting.run_name}: relabelling.layer={layer}: the encoder has {depth} layers")


def _pretraining(setting: Setting, corpus: Corpus, name: str, steps: int, overrides: list[str]) -> Stage:
    common = [
        f"--config-name={setting.pretrain.config}", *corpus.train_overrides, corpus.validation_override,
        f"seed={setting.seed}", f"name={name}", f"exp_manager.exp_dir={OUT}",
    ]  # fmt: skip
    if setting.method.begins_from:
        common += [f"init_from_nemo_model={OUT}/{start(setting)}", "like=true"]
    if steps == 0:
        arguments = ["scripts/untrained_model.py", *common, *setting.pretrain.overrides, *overrides]
        return Stage(name, tuple(arguments), UNTRAINED)
    length = [
        f"trainer.max_steps={steps}", f"trainer.val_check_interval={_interval(setting.pretrain, steps)}",
        f"trainer.log_every_n_steps={max(1, steps // POINTS)}", "trainer.enable_progress_bar=false",
        "exp_manager.checkpoint_callback_params.save_top_k=-1",
    ]  # fmt: skip
    arguments = ["scripts/speech_pre_training.py", *common, *length, *setting.pretrain.overrides, *overrides]
    return Stage(name, tuple(arguments), f"{name}/checkpoints/{name}.nemo", steps, resumes=True)


def start(setting: Setting) -> str:
    """Returns the file that a method with ``begins_from`` begins with, relative to the folder of its run."""
    return f"../../../{setting.method.begins_from}_seed{setting.seed}/{PRETRAINED}"


def _interval(pretrain: Pretraining, steps: int) -> int:
    """Returns the steps between validations, rounded down, so that the last validation is within the stage."""
    return steps // max(1, round(pretrain.checkpoints * steps / pretrain.steps))


def _labels(corpus: Corpus, nemo: str) -> Stage:
    arguments = (
        "scripts/label_quality_over_training.py", f"{OUT}/{nemo}", f"--manifest={recorded(corpus.layout.validation)}",
        f"--alignments={recorded(corpus.layout.alignments)}", f"--out={OUT}/{LABELS}",
    )  # fmt: skip
    return Stage("labels", arguments, LABELS)


def _finetuning(setting: Setting, corpus: Corpus, nemo: str) -> Stage:
    finetune = setting.finetune
    steps = finetune.steps
    arguments = (
        "scripts/speech_to_text_finetune.py", f"--config-name={finetune.config}", f"init_from_nemo_model={OUT}/{nemo}",
        *corpus.labelled.overrides, corpus.validation_override, f"test_manifests=['test={recorded(corpus.layout.test)}']",
        f"seed={setting.seed}", "name=finetune", f"exp_manager.exp_dir={OUT}", "exp_manager.resume_if_exists=true",
        f"trainer.max_steps={steps}", "trainer.max_epochs=-1",
        f"trainer.val_check_interval={steps // finetune.validations}", "trainer.check_val_every_n_epoch=null",
        f"trainer.log_every_n_steps={max(1, steps // POINTS)}", *finetune.overrides,
    )  # fmt: skip
    return Stage("finetune", arguments, SCORES, steps)


def fill_in(argument: str, corpus: Path, out: Path) -> str:
    """Replaces the placeholders of an argument by folders of this machine."""
    return argument.replace(CORPUS, str(corpus)).replace(OUT, str(out))


def _quoted(argument: str) -> str:
    return argument if re.fullmatch(r"[\w$./,:=+~@%-]+", argument) else '"' + re.sub(r'(["\\`])', r"\\\1", argument) + '"'
