"""What an experiment consists of: conf/experiments/<budget>.yaml laid over methods.yaml beside it, as a list of settings."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "conf" / "experiments"
NOT_BUDGETS = ("methods", "corpora")


@dataclass
class Pretraining:
    """Of every method but ``scratch``."""

    config: str = ""
    """A file of conf/, without ``.yaml``."""
    steps: int = 0
    """In all stages of a method together."""
    checkpoints: int = 6
    """Points at which the labels are looked at."""
    overrides: list[str] = field(default_factory=list)


@dataclass
class Finetuning:
    """Of every method, the same."""

    config: str = "ctc_char"
    """A file of conf/finetune/."""
    steps: int = 0
    validations: int = 4
    """The recognizer has the weights of the best one."""
    overrides: list[str] = field(default_factory=list)


@dataclass
class Relabelling:
    """A second stage, from equal weights, on k-means labels of a layer of the first stage's encoder, as in HuBERT."""

    layer: int = 0
    clusters: int = 0
    hours: float | None = None
    """Of audio that the clusters are fitted on; None: all."""


@dataclass
class Method:
    """A row of the tables."""

    description: str = ""
    overrides: list[str] = field(default_factory=list)
    pretraining: bool = True
    """False: fine-tuning begins with the weights that pretraining would begin with."""
    relabelling: Relabelling | None = None
    finetune: bool = True
    """False: only losses and labels are recorded."""
    seeds: list[int] | None = None
    """Those of the budget, where not given."""


@dataclass
class Budget:
    """Keys of a budget's yaml."""

    description: str = ""
    gpus: int = 0
    max_hours: float = 24.0
    """On this machine with the jobs given; a budget that takes longer is refused."""
    corpus: str | None = None
    """Taken where none is named."""
    labelled_hours: float | None = None
    """For fine-tuning, about; None: as conf/experiments/corpora.yaml says."""
    pretrain: Pretraining = field(default_factory=Pretraining)
    finetune: Finetuning = field(default_factory=Finetuning)
    seeds: list[int] = field(default_factory=lambda: [0])
    methods: dict[str, Method] = field(default_factory=dict)
    ablations: dict[str, Method] = field(default_factory=dict)
    """One change each of the method ``birq``, whose overrides come first."""


@dataclass(frozen=True)
class Setting:
    """One run, but for the corpus."""

    budget: str
    name: str
    kind: str
    """``method`` or ``ablation``."""
    seed: int
    method: Method
    pretrain: Pretraining
    finetune: Finetuning

    @property
    def run_name(self) -> str:
        return f"{self.name}_seed{self.seed}"


def budget_names() -> list[str]:
    """Names of the budgets that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in NOT_BUDGETS)


def read_budget(name: str) -> Budget:
    """Reads ``conf/experiments/<name>.yaml``, or a yaml file of that path, over ``methods.yaml``.

    A key ``base: OTHER`` in it names a budget that lies between the two; lists are replaced, not added to.

    Raises:
        ValueError: no such budget, a key that does not exist, or a value that cannot be.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    _check_is_budget(path, f"--budget {name}")
    try:
        own = OmegaConf.load(path)
        layers = [FOLDER / "methods.yaml"]
        if "base" in own:
            layers.append(FOLDER / f"{own.base}.yaml")
            _check_is_budget(layers[-1], f"{path}: base: {own.pop('base')}")
        given = OmegaConf.merge(*map(OmegaConf.load, layers), own)
        given.methods = {method: row for method, row in (given.methods or {}).items() if row is not None}  # null: none
        budget = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Budget), given))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"{path}: {error}") from error
    _check(budget, path)
    return budget


def _check_is_budget(path: Path, given: str) -> None:
    if not path.is_file() or path.stem in NOT_BUDGETS:
        raise ValueError(f"{given}: there are {', '.join(budget_names())}, or give the path of a yaml file")


def _check(budget: Budget, path: Path) -> None:
    finetunes = any(method.finetune for method in (budget.methods | budget.ablations).values())
    stages = {"pretrain": budget.pretrain} | ({"finetune": budget.finetune} if finetunes else {})
    wrong = [f"{name}.steps={stage.steps}: at least 1" for name, stage in stages.items() if stage.steps < 1]
    if not 1 <= budget.pretrain.checkpoints <= max(1, budget.pretrain.steps):
        wrong.append(f"pretrain.checkpoints={budget.pretrain.checkpoints}: 1 to pretrain.steps={budget.pretrain.steps}")
    if finetunes and not 1 <= budget.finetune.validations <= max(1, budget.finetune.steps):
        wrong.append(f"finetune.validations={budget.finetune.validations}: 1 to finetune.steps={budget.finetune.steps}")
    for folder, stage in (("conf", budget.pretrain), ("conf/finetune", budget.finetune)):
        if not (ROOT / folder / f"{stage.config}.yaml").is_file():
            wrong.append(f"config={stage.config}: {folder}/ has no such file")
    if budget.labelled_hours is not None and budget.labelled_hours <= 0:
        wrong.append(f"labelled_hours={budget.labelled_hours}: above 0, or null for what corpora.yaml says")
    if not budget.methods:
        wrong.append("methods: at least one")
    if not budget.seeds:
        wrong.append("seeds: at least one")
    if budget.ablations and "birq" not in budget.methods:
        wrong.append("ablations: they change the method birq, which is not there")
    wrong += [f"{name}: both a method and an ablation" for name in budget.methods.keys() & budget.ablations.keys()]
    for name, method in (budget.methods | budget.ablations).items():
        r = method.relabelling
        if r and (r.layer < 1 or r.clusters < 2):
            wrong.append(f"{name}.relabelling: layer at least 1, clusters at least 2; it is {r}")
        if r and r.hours is not None and r.hours <= 0:
            wrong.append(f"{name}.relabelling.hours={r.hours}: above 0, or null for all")
        if r and budget.pretrain.steps < 2:
            wrong.append(f"{name}: two stages need at least 2 steps")
        if not method.pretraining and not method.finetune:
            wrong.append(f"{name}: neither pretraining nor fine-tuning")
    if wrong:
        raise ValueError(f"{path}: " + "; ".join(wrong))


def expand(name: str, budget: Budget, only: list[str] | None = None, seeds: list[int] | None = None) -> list[Setting]:
    """The runs of a budget: methods seed by seed, so that an unfinished sweep compares something, then ablations.

    Args:
        name: of the budget.
        only: names of methods and ablations, or ``methods`` or ``ablations`` for all of them; None: everything.
        seeds: in place of those of the budget.

    Raises:
        ValueError: a name that is not there.
    """
    every = {**budget.methods, **budget.ablations}
    chosen = set(every) if only is None else set()
    for word in only or []:
        if word not in every and word not in ("methods", "ablations"):
            raise ValueError(f"--only {word}: there are {', '.join(every)}, and the words methods and ablations")
        chosen |= set(getattr(budget, word)) if word in ("methods", "ablations") else {word}
    birq = budget.methods["birq"].overrides if "birq" in budget.methods else []
    methods = [("method", method, row, row.overrides) for method, row in budget.methods.items()]
    methods += [("ablation", method, row, [*birq, *row.overrides]) for method, row in budget.ablations.items()]
    runs = [
        (kind, seed, Setting(Path(name).stem, method, kind, seed, _with(row, overrides), budget.pretrain, budget.finetune))
        for kind, method, row, overrides in methods
        if method in chosen
        for seed in dict.fromkeys(seeds or row.seeds or budget.seeds)
    ]
    return [setting for _, _, setting in sorted(runs, key=lambda run: (run[0] == "ablation", run[1]))]


def _with(method: Method, overrides: list[str]) -> Method:
    return Method(**(vars(method) | {"overrides": list(overrides)}))


def plain(config: DictConfig) -> dict[str, Any]:
    """A resolved configuration as plain values; keys that are missing stay ``???``."""
    return OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
