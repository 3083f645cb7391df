"""What each setting of the enhanced labels does: one row an ablation."""

from experiments.drawing.error_tables import rate_cells, scored
from experiments.drawing.label_tables import last_pnmi
from experiments.drawing.markdown import NOTHING, interval, mean, number, plus_minus, table
from experiments.drawing.runs import Curve, Group, Run
from experiments.drawing.statistics import counts_of, difference_of, rate_of
from nemo_birq.monitoring.metrics import LEAST_ENTROPY

BASE = "birq"
"""The method that every ablation changes in one place."""
ENTROPY = "enhanced_normalized_entropy"


def ablation_table(group: Group) -> str:
    """BEST-RQ and BiRQ for comparison, then the ablations; empty where there are none."""
    if not group.of("ablation"):
        return ""
    named = {name: group.methods[name] for name in ("best_rq", BASE) if name in group.methods}
    rows = [_row(name, runs, group) for name, runs in (named | group.of("ablation")).items()]
    header = (
        "setting", "what it is", "seeds", "alive?", "CER %", f"CER − {BASE} (95 %)", "anchor loss / unigram",
        "enhanced loss / unigram", "normalized entropy", "perplexity", "pick = nearest", "PNMI enhanced (by chance)",
    )  # fmt: skip
    return table(header, rows, left=2)


def _row(name: str, runs: list[Run], group: Group) -> list[str]:
    found = scored({name: runs}).get(name)
    rate = rate_cells(rate_of(counts_of(found, "cer")))[0] if found else NOTHING
    anchor, enhanced = (_against_unigram(runs, task) for task in ("anchor", "enhanced"))
    numbers = [
        plus_minus([run.final.get(f"val_{tag}") for run in runs], digits)
        for tag, digits in ((ENTROPY, 2), ("enhanced_perplexity", 0), ("selection_agreement", 2))
    ]
    pnmi, chance = last_pnmi(runs, "own")
    return [
        f"`{name}`", runs[0].content["description"], str(len(runs)), alive(runs), rate, _against_base(name, found, group),
        anchor, enhanced, *numbers, f"{pnmi} ({chance})" if pnmi != NOTHING else pnmi,
    ]  # fmt: skip


def _against_unigram(runs: list[Run], task: str) -> str:
    loss, unigram = (mean([run.final.get(f"val_{task}_{tag}") for run in runs]) for tag in ("loss", "unigram_entropy"))
    return NOTHING if loss is None else f"{number(loss)} / {number(unigram)}"


def _against_base(name: str, found: list[Run] | None, group: Group) -> str:
    base = scored(group.methods).get(BASE)
    if name == BASE or not found or not base:
        return NOTHING
    difference = difference_of(counts_of(found, "cer"), counts_of(base, "cer"))
    return NOTHING if difference is None else f"{100 * difference.mean:+.1f} ({interval(difference.interval, '+')})"


def alive(runs: list[Run]) -> str:
    """``yes``, or from which step on the labels had collapsed, or of how many seeds; over the whole time after the ramp."""
    looked = [(run, curve) for run in runs if (curve := entropy_after_ramp(run))]
    if not looked:
        return NOTHING
    collapsed = [step for run, curve in looked if (step := first_collapse(curve)) is not None]
    if not collapsed:
        return "yes"
    since = f"from step {min(collapsed):,}"
    return f"**no**, {since}" if len(collapsed) == len(looked) else f"**{len(collapsed)} of {len(looked)} not**, {since}"


def entropy_after_ramp(run: Run) -> Curve:
    """Normalized entropy of the enhanced labels in training and in validation, from where their weight is full.

    In validation running statistics normalize layer k, so that its labels can be worse than those trained on.

    Raises:
        ValueError: the record does not say when that is.
    """
    curve = sorted(run.curve(f"train_{ENTROPY}") + run.curve(f"val_{ENTROPY}"))
    if not curve:
        return []
    try:
        loss = run.content["config"]["model"]["birq"]["loss"]
        full = loss["start_step"] + loss["ramp_steps"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{run.path}: config lacks model.birq.loss.start_step or ramp_steps ({error})") from error
    return [(step, value) for step, value in curve if step >= full]


def first_collapse(curve: Curve) -> float | None:
    """The first step below the limit of the alarm for a collapse."""
    return next((step for step, value in curve if value < LEAST_ENTROPY), None)
