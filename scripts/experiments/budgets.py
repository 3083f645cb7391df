"""Budgets of experiments: conf/experiments/<budget>.yaml merged over methods.yaml, expanded to a setting for each run."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "conf" / "experiments"
NOT_BUDGETS = ("methods", "corpora")
KINDS = ("method", "ablation")


@dataclass
class Pretraining:
    """Pretraining of every method except ``scratch``."""

    config: str = ""
    """Name of a file in conf/, without ``.yaml``."""
    steps: int = 0
    """Optimizer steps of all stages of a method together."""
    checkpoints: int = 6
    """Number of checkpoints, at each of which label quality is measured."""
    overrides: list[str] = field(default_factory=list)


@dataclass
class Finetuning:
    """Fine-tuning, the same for every method."""

    config: str = "ctc_char"
    """Name of a file in conf/finetune/, without ``.yaml``."""
    steps: int = 0
    validations: int = 4
    """Number of validations; the recognizer gets the weights of the best one."""
    overrides: list[str] = field(default_factory=list)


@dataclass
class Relabelling:
    """A second stage, from equal weights, on k-means labels of a layer of the first stage's encoder, as in HuBERT."""

    layer: int = 0
    clusters: int = 0
    hours: float | None = None
    """Hours of audio to fit the clusters on; None: all."""


@dataclass
class Method:
    """A row of the tables."""

    description: str = ""
    overrides: list[str] = field(default_factory=list)
    pretraining: bool = True
    """False: fine-tuning starts from the weights that pretraining would start from."""
    relabelling: Relabelling | None = None
    begins_from: str | None = None
    """``budget/corpus/method`` of runs in the same ``--out``: the run of the same seed gives the first weights."""
    finetune: bool = True
    """False: the run records losses and labels only."""
    seeds: list[int] | None = None
    """None: the seeds of the budget."""


@dataclass
class Budget:
    """Keys of a budget's yaml."""

    description: str = ""
    gpus: int = 0
    max_hours: float = 24.0
    """Limit on this machine with the given jobs; a budget that takes longer is refused."""
    corpus: str | None = None
    """Corpus to use when the user names none."""
    labelled_hours: float | None = None
    """Approximate hours of audio for fine-tuning; None: the value in conf/experiments/corpora.yaml."""
    pretrain: Pretraining = field(default_factory=Pretraining)
    finetune: Finetuning = field(default_factory=Finetuning)
    seeds: list[int] = field(default_factory=lambda: [0])
    methods: dict[str, Method] = field(default_factory=dict)
    ablations: dict[str, Method] = field(default_factory=dict)
    """Single changes of the method ``birq``, whose overrides come first."""


@dataclass(frozen=True)
class Setting:
    """One run, without its corpus."""

    budget: str
    name: str
    kind: str
    """One of ``KINDS``."""
    seed: int
    method: Method
    pretrain: Pretraining
    finetune: Finetuning

    @property
    def run_name(self) -> str:
        return f"{self.name}_seed{self.seed}"


def budget_names() -> list[str]:
    """Returns the names of the budgets in conf/experiments/."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in NOT_BUDGETS)


def read_budget(name: str) -> Budget:
    """Reads ``conf/experiments/<name>.yaml``, or a yaml file of that path, merged over ``methods.yaml``.

    A key ``base: OTHER`` names a budget to merge between the two; it may have a base, too. Lists are replaced, not
    extended.

    Raises:
        ValueError: no such budget, an unknown key or a value out of range.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    _check_is_budget(path, f"--budget {name}")
    try:
        layers, bases = [OmegaConf.load(path)], []
        while base := layers[0].pop("base", None):
            if base in bases:
                raise ValueError(f"{path}: base: {base} leads back to itself")
            _check_is_budget(FOLDER / f"{base}.yaml", f"{path}: base: {base}")
            bases.append(base)
            layers.insert(0, OmegaConf.load(FOLDER / f"{base}.yaml"))
        given = OmegaConf.merge(OmegaConf.load(FOLDER / "methods.yaml"), *layers)
        given.methods = {method: row for method, row in (given.methods or {}).items() if row is not None}  # null: none
        budget = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Budget), given))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    if problems := [*_budget_problems(budget), *_method_problems(budget)]:
        raise ValueError(f"{path}: " + "; ".join(problems))
    return budget


def _check_is_budget(path: Path, given: str) -> None:
    if not path.is_file() or path.stem in NOT_BUDGETS:
        raise ValueError(f"{given}: there are {', '.join(budget_names())}, or give the path of a yaml file")


def _budget_problems(budget: Budget) -> list[str]:
    finetunes = any(method.finetune for method in (budget.methods | budget.ablations).values())
    stages = {"pretrain": budget.pretrain} | ({"finetune": budget.finetune} if finetunes else {})
    problems = [f"{name}.steps={stage.steps}: at least 1" for name, stage in stages.items() if stage.steps < 1]
    if not 1 <= budget.pretrain.checkpoints <= max(1, budget.pretrain.steps):
        problems.append(f"pretrain.checkpoints={budget.pretrain.checkpoints}: 1 to pretrain.steps={budget.pretrain.steps}")
    if finetunes and not 1 <= budget.finetune.validations <= max(1, budget.finetune.steps):
        problems.append(f"finetune.validations={budget.finetune.validations}: 1 to finetune.steps={budget.finetune.steps}")
    for folder, stage in (("conf", budget.pretrain), ("conf/finetune", budget.finetune)):
        if not (ROOT / folder / f"{stage.config}.yaml").is_file():
            problems.append(f"config={stage.config}: {folder}/ has no such file")
    if budget.labelled_hours is not None and budget.labelled_hours <= 0:
        problems.append(f"labelled_hours={budget.labelled_hours}: above 0, or null for the value in corpora.yaml")
    if not budget.methods:
        problems.append("methods: at least one")
    if not budget.seeds:
        problems.append("seeds: at least one")
    if budget.ablations and "birq" not in budget.methods:
        problems.append("ablations: they change the method birq, which is missing in methods")
    return problems


def _method_problems(budget: Budget) -> list[str]:
    problems = [f"{name}: both a method and an ablation" for name in budget.methods.keys() & budget.ablations.keys()]
    for name, method in (budget.methods | budget.ablations).items():
        if not method.pretraining and not method.finetune:
            problems.append(f"{name}: neither pretraining nor fine-tuning")
        relabelling = method.relabelling
        if method.begins_from is not None and len(method.begins_from.split("/")) != 3:
            problems.append(f"{name}.begins_from={method.begins_from}: the form is budget/corpus/method")
        if method.begins_from is not None and relabelling is not None:
            problems.append(f"{name}: begins_from and relabelling exclude each other")
        if relabelling is None:
            continue
        if relabelling.layer < 1 or relabelling.clusters < 2:
            problems.append(f"{name}.relabelling: layer at least 1, clusters at least 2; it is {relabelling}")
        if relabelling.hours is not None and relabelling.hours <= 0:
            problems.append(f"{name}.relabelling.hours={relabelling.hours}: above 0, or null for all")
        if budget.pretrain.steps < 2:
            problems.append(f"{name}: two stages need at least 2 steps")
    return problems


def expand(name: str, budget: Budget, only: list[str] | None = None, seeds: list[int] | None = None) -> list[Setting]:
    """Lists the runs of a budget: methods seed by seed, so that an unfinished sweep compares something, then ablations.

    Args:
        name: name or path of the budget.
        budget: its content.
        only: names of methods and ablations, or ``methods`` or ``ablations`` for all of them; None: everything.
        seeds: seeds that replace those of the budget.

    Raises:
        ValueError: ``only`` has an unknown name.
    """
    every = budget.methods | budget.ablations
    groups = {"methods": budget.methods, "ablations": budget.ablations}
    chosen = set(every) if only is None else set()
    for word in only or []:
        if word not in every and word not in groups:
            raise ValueError(f"--only {word}: there are {', '.join(every)}, and the words methods and ablations")
        chosen |= set(groups.get(word, [word]))
    birq = budget.methods["birq"].overrides if "birq" in budget.methods else []
    rows = [("method", method, row) for method, row in budget.methods.items()]
    rows += [
        ("ablation", method, replace(row, overrides=[*birq, *row.overrides])) for method, row in budget.ablations.items()
    ]
    settings = [
        Setting(Path(name).stem, method, kind, seed, row, budget.pretrain, budget.finetune)
        for kind, method, row in rows
        if method in chosen
        for seed in dict.fromkeys(seeds or row.seeds or budget.seeds)
    ]
    return sorted(settings, key=lambda setting: (KINDS.index(setting.kind), setting.seed))
