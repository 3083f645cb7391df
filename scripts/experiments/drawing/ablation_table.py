"""Table of the ablations: the effect of each setting of the enhanced labels."""

from experiments.drawing.error_tables import rate_cells, scored
from experiments.drawing.label_tables import last_pnmi
from experiments.drawing.markdown import NOTHING, interval, mean, number, plus_minus, table
from experiments.drawing.records import Curve, Group, Record
from experiments.drawing.statistics import counts_of, difference_of, rate_of
from nemo_birq.monitoring.metrics import MIN_ENTROPY

BASE = "birq"
"""The method that every ablation changes in one place."""
ENTROPY = "enhanced_normalized_entropy"


def ablation_table(group: Group) -> str:
    """Formats BEST-RQ and BiRQ for comparison, then the ablations; empty if there are none.

    Without a scored run the table has no error rates.
    """
    ablations = group.of("ablation")
    if not ablations:
        return ""
    named = {name: group.methods[name] for name in ("best_rq", BASE) if name in group.methods} | ablations
    rates = ("CER %", f"CER − {BASE} (95 %)") if scored(group.methods) else ()
    header = (
        "setting", "change", "seeds", "collapsed?", *rates, "anchor loss / unigram", "enhanced loss / unigram",
        "normalized entropy", "perplexity", "pick = nearest", "PNMI enhanced (by chance)",
    )  # fmt: skip
    return table(header, [_row(name, records, group, bool(rates)) for name, records in named.items()], left=2)


def _row(name: str, records: list[Record], group: Group, has_rates: bool) -> list[str]:
    found = scored({name: records}).get(name)
    rate = rate_cells(rate_of(counts_of(found, "cer")))[0] if found else NOTHING
    rates = [rate, _against_base(name, found, group)] if has_rates else []
    anchor, enhanced = (_against_unigram(records, task) for task in ("anchor", "enhanced"))
    numbers = [
        plus_minus([record.final.get(f"val_{tag}") for record in records], digits)
        for tag, digits in ((ENTROPY, 2), ("enhanced_perplexity", 0), ("selection_agreement", 2))
    ]
    pnmi, chance = last_pnmi(records, "own")
    return [
        f"`{name}`", records[0].description, str(len(records)), collapse(records), *rates, anchor, enhanced, *numbers,
        f"{pnmi} ({chance})" if pnmi != NOTHING else pnmi,
    ]  # fmt: skip


def _against_unigram(records: list[Record], task: str) -> str:
    tags = ("loss", "unigram_entropy")
    loss, unigram = (mean([record.final.get(f"val_{task}_{tag}") for record in records]) for tag in tags)
    return NOTHING if loss is None else f"{number(loss)} / {number(unigram)}"


def _against_base(name: str, found: list[Record] | None, group: Group) -> str:
    base = scored(group.methods).get(BASE)
    if name == BASE or not found or not base:
        return NOTHING
    difference = difference_of(counts_of(found, "cer"), counts_of(base, "cer"))
    return NOTHING if difference is None else f"{100 * difference.mean:+.1f} ({interval(difference.interval, '+')})"


def collapse(records: list[Record]) -> str:
    """Describes the collapse of the enhanced labels after the ramp: ``no``, or the first step and the number of seeds."""
    curves = [curve for record in records if (curve := entropy_after_ramp(record))]
    if not curves:
        return NOTHING
    collapsed = [step for curve in curves if (step := first_collapse(curve)) is not None]
    if not collapsed:
        return "no"
    since = f"from step {min(collapsed):,}"
    return f"**yes**, {since}" if len(collapsed) == len(curves) else f"**{len(collapsed)} of {len(curves)} seeds**, {since}"


def entropy_after_ramp(record: Record) -> Curve:
    """Returns the normalized entropy of the enhanced labels in training and in validation after the ramp of their weight.

    In validation running statistics normalize layer k, so that its labels can be worse than those in training.

    Raises:
        ValueError: the record does not say when the ramp ends.
    """
    curve = sorted(record.curve(f"train_{ENTROPY}") + record.curve(f"val_{ENTROPY}"))
    if not curve:
        return []
    try:
        loss = record.content["config"]["model"]["birq"]["loss"]
        full = loss["start_step"] + loss["ramp_steps"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{record.path}: config lacks model.birq.loss.start_step or ramp_steps ({error})") from error
    return [(step, value) for step, value in curve if step >= full]


def first_collapse(curve: Curve) -> float | None:
    """Returns the first step with an entropy below the limit of the alarm for a collapse; None if there is none."""
    return next((step for step, value in curve if value < MIN_ENTROPY), None)
