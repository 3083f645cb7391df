"""The results of storms, as a table and as a file."""

import platform
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from benchmarks.reliability.storms import Result
from nemo_birq.utils.files import write_json


def totals(results: list[Result]) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the sums over the storms of each run and kind."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.run, result.kind].append(result)
    return {
        key: {
            "storms": len(group),
            "starts": sum(result.starts for result in group),
            "kills": sum(result.kills for result in group),
            "well": sum(result.is_well for result in group),
            "needed_a_person": sum(result.needed_a_person is not None for result in group),
            "other_ranks_waited": round(max(result.longest_wait for result in group), 1),
            "seconds": round(sum(result.seconds for result in group), 1),
            "processor_seconds": round(sum(result.processor_seconds for result in group), 1),
        }
        for key, group in sorted(groups.items())
    }


def summary_table(results: list[Result]) -> Table:
    """Returns one line for each run and kind of storm.

    ``person``: storms that needed intervention; ``waited``: longest time for which ranks continued after one was killed.
    """
    table = Table(title="Storms: runs that are killed and started again until they end", header_style="bold")
    for name in ("run", "kind"):
        table.add_column(name)
    columns = ("storms", "starts", "kills", "well", "person", "waited", "seconds", "processor")
    for name in columns:
        table.add_column(name, justify="right")
    before = None
    for (run, kind), sums in totals(results).items():
        if run != before:
            table.add_section()
        values = [f"{value:g}" for value in sums.values()]
        style = "green" if sums["well"] == sums["storms"] else "red"
        table.add_row(run if run != before else "", kind, *values[:3], f"[{style}]{values[3]}", *values[4:])
        before = run
    return table


def failure(result: Result) -> str:
    """Describes the failure of a storm in a few lines."""
    lines = [f"FAILED {result.storm}"]
    if result.needed_a_person is not None:
        lines.append(f"  a person is needed: {result.needed_a_person}")
    groups: dict[str, list[str]] = defaultdict(list)
    for complaint in result.complaints:
        groups[_file(complaint)].append(complaint)
    lines += [f"  {group[0]}{f' (and {len(group) - 1} more like it)' if group[1:] else ''}" for group in groups.values()]
    return "\n".join(lines)


def _file(complaint: str) -> str:
    """Returns the common part of similar differences: kind and file."""
    return re.split(r"(?<=\.ckpt):|(?<=\.json):|(?<=metrics):|(?<=\.yaml):|(?<=\.pt):", complaint)[0]


def write_results(path: Path, results: list[Result], command: str, seed: int, seconds: int) -> None:
    """Writes totals and failures as JSON."""
    kinds: dict[str, dict[str, Any]] = defaultdict(dict)
    for (run, kind), sums in totals(results).items():
        kinds[run][kind] = sums
    failures = [failure(result) for result in results if not result.is_well]
    about = {"command": command, "machine": f"{platform.machine()}, torch {torch.__version__}, {platform.system()}"}
    about |= {"seed": seed, "seconds": seconds, "storms": len(results), "failed": len(failures)}
    write_json(path, about | {"runs": kinds, "failures": sorted(failures)})
