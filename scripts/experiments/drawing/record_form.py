"""The form of a record: its keys and the types of their values."""

import math
from dataclasses import dataclass
from typing import Any

TEXT, COUNT, NUMBER = (str,), (int,), (int, float)


@dataclass(frozen=True)
class Maybe:
    """A value of this form, or null."""

    form: Any


@dataclass(frozen=True)
class Values:
    """An object with any keys, whose values have this form."""

    form: Any


@dataclass(frozen=True)
class Row:
    """A list with a value of each form."""

    forms: tuple


CURVES = Values([Row((NUMBER, Maybe(NUMBER)))])
COST = {"seconds": NUMBER, "processor_seconds": NUMBER, "peak_memory_gb": Maybe(NUMBER)}
STAGE = {
    "steps": COUNT, "audio_hours_seen": NUMBER, **COST, "curves": CURVES, "final": Values(NUMBER), "alarms": [Values(Any)],
}  # fmt: skip
LABELS = {"step": COUNT, "labels": TEXT, "pnmi": Maybe(NUMBER), "pnmi_by_chance": Maybe(NUMBER)}
FINETUNING = {"steps": COUNT, **COST, "labelled_hours": NUMBER, "curves": CURVES}
SCORES = {
    "wer": NUMBER, "cer": NUMBER, "words": COUNT, "characters": COUNT, "utterances": COUNT,
    "errors": [Row((TEXT, Maybe(TEXT), COUNT, COUNT, COUNT, COUNT))],
}  # fmt: skip
RECORD = {
    "budget": TEXT, "corpus": TEXT, "method": TEXT, "kind": TEXT, "seed": COUNT, "description": TEXT, "overrides": [TEXT],
    "commands": [TEXT], "config": Values(Any), "finetune_config": Maybe(Values(Any)), "versions": Values(Any),
    "machine": Values(Any), "parameters": COUNT, "pretraining": Maybe(Values(Any)), "labels": [LABELS],
    "finetuning": Maybe(FINETUNING), "scores": Maybe(SCORES),
}  # fmt: skip


def find_problem(value: Any, form: Any, where: str = "") -> str | None:
    """Returns the problem of the first value that does not have its form, with its place; None if all have."""
    if form is Any or (isinstance(form, Maybe) and value is None):
        return None
    if isinstance(form, Maybe):
        return find_problem(value, form.form, where)
    if isinstance(form, tuple):
        is_right = isinstance(value, form) and not isinstance(value, bool)
        if is_right and not (isinstance(value, float) and not math.isfinite(value)):
            return None
        return f"{where} is {value!r:.60}, not {' or '.join(kind.__name__ for kind in form)}"
    wanted = list if isinstance(form, list | Row) else dict
    if not isinstance(value, wanted):
        return f"{where or 'the record'} is {value!r:.60}, not {'a list' if wanted is list else 'an object'}"
    if isinstance(form, Row) and len(value) != len(form.forms):
        return f"{where} has {len(value)} values, not {len(form.forms)}"
    if isinstance(form, dict) and (missing := [key for key in form if key not in value]):
        return f"it lacks {', '.join(f'{where}.{key}'.lstrip('.') for key in missing)}"
    return next(filter(None, (find_problem(*inside) for inside in _inside(value, form, where))), None)


def _inside(value: Any, form: Any, where: str) -> list[tuple[Any, Any, str]]:
    """Lists the values inside with their forms and places."""
    if isinstance(form, list | Row):
        forms = form.forms if isinstance(form, Row) else form * len(value)
        return [(inner, its, f"{where}[{number}]") for number, (inner, its) in enumerate(zip(value, forms, strict=True))]
    forms = dict.fromkeys(value, form.form) if isinstance(form, Values) else form
    return [(value[key], its, f"{where}.{key}".lstrip(".")) for key, its in forms.items()]
