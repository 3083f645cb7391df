"""Instructions to run the experiments of a group again."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from experiments.corpora import read_layouts
from experiments.drawing.markdown import duration, table
from experiments.drawing.records import Group, Record


def rerun_text(group: Group, page: Path) -> str:
    """Formats the command, the folder of the records, the cost, the machine and the versions of a group.

    Args:
        group: a group of records.
        page: the page that shows the text; the folder of the records is relative to the page's folder.
    """
    layout = read_layouts().get(group.corpus)
    folder = "" if layout and layout.folder else "=<folder of the corpus>"
    command = f"    python scripts/experiment.py --budget {group.budget} --corpus {group.corpus}{folder}"
    return f"{command}\n\n{_facts(group, page)}"


def _facts(group: Group, page: Path) -> str:
    records = group.records
    wall, processor = (duration(_spent(records, key)) for key in ("seconds", "processor_seconds"))
    rows = [
        ["records", _folder(records, page)],
        ["runs", f"{len(records)} ({sum(record.scores is not None for record in records)} scored)"],
        ["time", f"{wall} one run after another, {processor} of processor time; pretraining and fine-tuning"],
        ["machine", _counted(_machine(record) for record in records)],
        ["commit", _counted(f"`{record.content['versions'].get('git')}`" for record in records)],
        ["versions", _counted(_versions(record) for record in records)],
        ["parameters", _counted(f"{record.content['parameters']:,}" for record in records)],
    ]
    return table(("", ""), rows, left=2)


def _folder(records: list[Record], page: Path) -> str:
    """Links the folder that holds all records of a group."""
    common = os.path.commonpath([record.path.absolute().parent for record in records])
    path = Path(os.path.relpath(common, page.absolute().parent)).as_posix()
    return f"[{path}/]({path}/)"


def _spent(records: list[Record], key: str) -> float:
    finetuning = (record.finetuning[key] for record in records if record.finetuning is not None)
    return sum(record.spent(key) or 0.0 for record in records) + sum(finetuning)


def _counted(values: Iterable[str]) -> str:
    """Lists the values, with the number of runs for each if they differ."""
    found = Counter(values).most_common()
    return found[0][0] if len(found) == 1 else "; ".join(f"{value} ({count} runs)" for value, count in found)


def _machine(record: Record) -> str:
    machine = record.content["machine"]
    parts = [machine.get("cpu"), f"{machine.get('cores')} cores", machine.get("gpu"), f"{machine.get('memory_gb')} GB"]
    return ", ".join(str(part) for part in parts if part)


def _versions(record: Record) -> str:
    return ", ".join(f"{name} {version}" for name, version in record.content["versions"].items() if name != "git")
