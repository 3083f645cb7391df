"""What it takes to make the runs of a group again."""

from collections import Counter
from collections.abc import Iterable

from experiments.drawing.markdown import duration, table
from experiments.drawing.runs import Group, Run


def rerun_text(group: Group) -> str:
    """Command, versions, machine, number of runs and hours, and the commands of the first run of each method."""
    command = f"    python scripts/experiment.py --budget {group.budget} --corpus {group.corpus}=<folder of the corpus>"
    return "\n\n".join((command, _facts(group), _commands(group)))


def _facts(group: Group) -> str:
    wall, processor = (duration(_spent(group, key)) for key in ("seconds", "processor_seconds"))
    rows = [
        ["runs", f"{len(group.runs)} ({sum(run.scores is not None for run in group.runs)} scored)"],
        ["time", f"{wall} if one runs after another, {processor} of a processor; pretraining and fine-tuning"],
        ["machine", _counted(_machine(run) for run in group.runs)],
        ["commit", _counted(f"`{run.content['versions'].get('git')}`" for run in group.runs)],
        ["versions", _counted(_versions(run) for run in group.runs)],
        ["parameters", _counted(f"{run.content['parameters']:,}" for run in group.runs)],
    ]
    return table(("", ""), rows, left=2)


def _spent(group: Group, key: str) -> float:
    finetuning = (run.content["finetuning"][key] for run in group.runs if run.content["finetuning"] is not None)
    return sum(run.spent(key) or 0.0 for run in group.runs) + sum(finetuning)


def _counted(values: Iterable[str]) -> str:
    """The values, with how many runs have each where they differ."""
    found = Counter(values).most_common()
    return found[0][0] if len(found) == 1 else "; ".join(f"{value} ({count} of the runs)" for value, count in found)


def _machine(run: Run) -> str:
    machine = run.content["machine"]
    parts = [machine.get("cpu"), f"{machine.get('cores')} cores", machine.get("gpu"), f"{machine.get('memory_gb')} GB"]
    return ", ".join(str(part) for part in parts if part)


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in run.content["versions"].items() if name != "git")


def _commands(group: Group) -> str:
    """Folded away: they are long."""
    lines = []
    for name, runs in group.of("method").items():
        lines += [f"# {name}, seed {runs[0].seed}: {runs[0].content['description']}", *runs[0].content["commands"], ""]
    told = "\n".join(lines).rstrip()
    summary = "The commands of the first seed of each method; the json of each run has its own"
    return f"<details><summary>{summary}</summary>\n\n```\n{told}\n```\n\n</details>"
