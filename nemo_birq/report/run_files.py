"""Reads the files beside the curves of a run. The page leaves out damaged files and names them in a note."""

import math
from pathlib import Path
from typing import Any

import yaml

from nemo_birq.utils.files import read_json

DAMAGED = "damaged"
"""Status of a run whose ``alarms.json`` cannot be read."""


def read_alarms(path: Path | None, statuses: set[str | None], notes: list[str]) -> tuple[str | None, list[dict[str, Any]]]:
    """Reads status and alarms of a run; returns None and no alarms if there is no file.

    Args:
        path: path of ``alarms.json``.
        statuses: known statuses.
        notes: receives a sentence for everything that is left out.
    """
    if path is None:
        return None, []
    found = _object(path, notes)
    alarms = found.get("alarms")
    if found and not isinstance(alarms, list):
        _leave_out(path, "it has no list 'alarms'", notes)
    if not isinstance(alarms, list):
        return DAMAGED, []
    usable = [alarm for alarm in alarms if _is_alarm(alarm)]
    if len(usable) < len(alarms):
        _leave_out(path, f"{len(alarms) - len(usable)} of its {len(alarms)} alarms have no name, step or message", notes)
    status = found.get("status")
    if not isinstance(status, str) or status not in statuses:
        _leave_out(path, f"its status is {str(status)[:40]!r}", notes)
        status = DAMAGED
    return status, usable


def read_quality(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """Reads the evaluations in a ``label_quality*.json``: one of a model, or several of a run; none if it cannot be used.

    Rows without a PNMI are kept; rows whose PNMI or layer is not a number are left out.
    """
    found = _object(path, notes)
    listed = found.get("evaluations", [found] if found else [])
    if not isinstance(listed, list):
        _leave_out(path, "'evaluations' is not a list", notes)
        return []
    evaluations = [_evaluation(path, one, notes) for one in listed]
    return [one for one in evaluations if one is not None]


def _evaluation(path: Path, found: object, notes: list[str]) -> dict[str, Any] | None:
    rows = found.get("rows") if isinstance(found, dict) else None
    if not isinstance(rows, list):
        _leave_out(path, "it has no list 'rows'", notes)
        return None
    usable = [row for row in rows if _is_row(row)]
    if len(usable) < len(rows):
        _leave_out(path, f"{len(rows) - len(usable)} of its {len(rows)} rows have no labels, layer or PNMI", notes)
    if rows and not usable:
        return None
    if not _is_whole(found.get("num_codes")):
        found["num_codes"] = "unknown"
    return found | {"rows": usable}


def read_config(path: Path | None, notes: list[str]) -> dict[str, Any]:
    """Reads an ``hparams.yaml`` as a dict with dotted keys; returns an empty one if it cannot be read."""
    if path is None:
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = {} if found is None else found
        if not isinstance(found, dict) or not isinstance(found.get("cfg", {}), dict):
            raise ValueError("it holds no mapping")
        found = {"model": found.pop("cfg")} | found if "cfg" in found else found
        return _flat(found)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        _leave_out(path, f"it is not readable as YAML ({_first_line(error)})", notes)
        return {}


def read_command(path: Path, notes: list[str]) -> list[str]:
    """Reads the arguments of the command. NeMo joins them with spaces, so an argument with a space is split."""
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 text ({error.reason})"
        _leave_out(path, reason, notes)
        return []
    if "\0" in text:
        _leave_out(path, "it holds a NUL character", notes)
    return text.replace("\0", "").split()


def _object(path: Path, notes: list[str]) -> dict[str, Any]:
    try:
        return read_json(path)
    except ValueError as error:
        notes.append(f"Left out: {_name(path)} {str(error).removeprefix(f'{path} ')}")
        return {}


def _leave_out(path: Path, reason: str, notes: list[str]) -> None:
    notes.append(f"Left out: {_name(path)} is damaged, {reason}. Repair it, or move it away.")


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"  # the page may be shared, so the folders above are not shown


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_alarm(alarm: object) -> bool:
    return (
        isinstance(alarm, dict)
        and isinstance(alarm.get("name", ""), str)
        and isinstance(alarm.get("message", ""), str)
        and isinstance(alarm.get("step", 0), int)
    )


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("labels"), str | None):
        return False
    pnmi, layer = row.get("pnmi"), row.get("layer")
    is_number = _is_whole(pnmi) or (isinstance(pnmi, float) and math.isfinite(pnmi))
    return (pnmi is None or (is_number and 0 <= pnmi <= 1)) and (layer is None or _is_whole(layer))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix: value} if prefix else {}
    return {
        k: v for name, inner in value.items() for k, v in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
