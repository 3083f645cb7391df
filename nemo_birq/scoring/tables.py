"""Tables of scores in the terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nemo_birq.scoring.errors import align
from nemo_birq.scoring.tuning import Trial, best

COLOURS = {"substitution": "yellow", "insertion": "cyan", "deletion": "red"}
GAP = "*"  # mark of an insertion or deletion


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def interval(found: list[float] | tuple[float, float] | None) -> str:
    return "-" if found is None else f"{percent(found[0])}..{percent(found[1])}"


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def score_table(results: dict[str, dict], title: str) -> Table:
    """Returns a table with a line for the words and a line for the characters of each test set, in percent."""
    table = Table(title=title, header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("test set", overflow="fold", min_width=8)
    for column in ("", "of", "%", "95 %", "95 % over\nspeakers", "sub/ins/del"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, found in results.items():
        parts = "/".join(percent(found[part] / found["words"]) for part in ("substitutions", "insertions", "deletions"))
        table.add_row(name, *_cells(found, "wer", f"{found['words']:,} words"), parts)
        table.add_row("", *_cells(found, "cer", f"{found['characters']:,} chars"))
    return table


def _cells(found: dict, rate: str, of: str) -> list[str | Text]:
    over_speakers = interval(found.get(f"{rate}_interval_over_speakers"))
    return [rate.upper(), of, Text(percent(found[rate]), style="bold"), interval(found[f"{rate}_interval"]), over_speakers]


def group_table(groups: list[dict], title: str, max_groups: int = 15) -> Table:
    """Returns a table of the WER of the first ``max_groups`` groups."""
    table = Table(title=title, header_style="bold", box=SIMPLE_HEAD)
    table.add_column("")
    for column in ("utterances", "words", "WER %", "95 %", "CER %"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups[:max_groups]:
        table.add_row(
            group["name"], f"{group['num_utterances']:,}", f"{group['words']:,}", percent(group["wer"]),
            interval(group["wer_interval"]), percent(group["cer"]),
        )  # fmt: skip
    if len(groups) > max_groups:
        table.add_row(f"... {len(groups) - max_groups} more in the JSON file", *[""] * 5)
    return table


def tuning_table(trials: list[Trial], title: str) -> Table:
    """Returns a table of the WER for each pair of weights, alpha in rows and beta in columns; the best is bold."""
    table = Table(title=title, header_style="bold")
    table.add_column("alpha \\ beta", justify="right")
    betas = sorted({trial.beta for trial in trials})
    for beta in betas:
        table.add_column(f"{beta:g}", justify="right")
    found = {(trial.alpha, trial.beta): trial for trial in trials}
    chosen = best(trials)
    for alpha in sorted({trial.alpha for trial in trials}):
        cells = []
        for beta in betas:
            trial = found[alpha, beta]
            cells.append(Text(percent(trial.wer), style="bold green" if trial == chosen else ""))
        table.add_row(f"{alpha:g}", *cells)
    return table


def aligned(reference: str, hypothesis: str, width: int) -> Text:
    """Aligns both texts word by word, with errors in colour and lines of at most ``width`` characters."""
    lines, upper, lower = Text(), Text("said   "), Text("heard  ")
    for spoken, found in align(reference.split(), hypothesis.split()):
        size = max(len(spoken or GAP), len(found or GAP)) + 1
        if len(upper) + size > width and len(upper) > 7:
            lines.append_text(upper).append("\n").append_text(lower).append("\n")
            upper, lower = Text("       "), Text("       ")
        kind = "insertion" if spoken is None else "deletion" if found is None else "substitution"
        style = "" if spoken == found else COLOURS[kind]
        upper.append((spoken or GAP).ljust(size), style=style if spoken else "dim")
        lower.append((found or GAP).ljust(size), style=style if found else "dim")
    return lines.append_text(upper).append("\n").append_text(lower)


def describe_decoding(found: dict) -> str:
    """Describes the decoding of a score."""
    made = found["made_from"]["decoding"]
    ahead = f", look-ahead of {made['look_ahead']} frames" if "look_ahead" in made else ""
    return found["decoding"] + (f", alpha {made['alpha']:g}, beta {made['beta']:g}" if "alpha" in made else "") + ahead


def details(found: dict, number: int, width: int) -> Group:
    """Shows groups, notes and the ``number`` worst utterances of one test set."""
    lines: list[Table | Text | str] = []
    for key, title in (("lengths", "by duration"), ("speakers", "by speaker, worst first")):
        groups = sorted(found[key], key=lambda group: -(group["wer"] or 0)) if key == "speakers" else found[key]
        if groups:
            lines.append(group_table(groups, f"{found['name']}, {title}"))
    if found["unwritable"]:
        signs = ", ".join(f"{sign!r} {count} times" for sign, count in list(found["unwritable"].items())[:8])
        note = f"the model has no token for {signs} in the references of {found['name']}"
        lines.append(Text.assemble(("Note: ", "yellow"), note))
    wrong = worst(found["utterances"], number)
    if wrong:
        kinds = (("substituted", "substitution"), ("left out", "deletion"), ("inserted", "insertion"))
        colours = Text(", ").join(Text(word, style=COLOURS[kind]) for word, kind in kinds)
        title = Text(f"{found['name']}, worst utterances", style="bold")
        lines.append(Text.assemble("\n", title, " (", colours, ")"))
    for utterance in wrong:
        lines.append(Text(f"{utterance['audio_filepath']}, {utterance['errors']} errors", style="dim"))
        lines.append(aligned(utterance["reference_scored"], utterance["hypothesis_scored"], width))
    return Group(*lines)


def describe_normalization(results: list[dict]) -> str:
    """Lists the steps of the normalization and counts the references and hypotheses that it changed."""
    changed = " and ".join(
        f"{sum(found['normalization'][f'{side}_changed'] for found in results)} {side}"
        for side in ("references", "hypotheses")
    )
    steps = "; ".join(results[0]["normalization"]["steps"])
    return f"Normalization of references and hypotheses: {steps}. It changed {changed}."


def worst(utterances: list[dict], number: int) -> list[dict]:
    """Finds the utterances with the most errors; among equals, those with the highest rate come first."""
    wrong = [utterance for utterance in utterances if utterance["errors"]]
    return sorted(wrong, key=lambda found: (-found["errors"], found["words"]))[:number]
