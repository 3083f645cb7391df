"""Texts of data are shown literally in the terminal, in pictures, in HTML and in Markdown."""

import io
import json
import re
from html.parser import HTMLParser

import pytest
import yaml
from lhotse.supervision import AlignmentItem
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.progress import TextColumn
from rich.table import Table
from rich.text import Text

from nemo_birq import cli
from nemo_birq.checkpoint.model_card import build_card
from nemo_birq.evaluation.label_quality.utterance_picture import draw_utterance
from nemo_birq.evaluation.label_quality.utterance_view import view_utterance
from nemo_birq.report import pictures
from nemo_birq.scoring.pictures import draw_score
from nemo_birq.scoring.results import summarize
from nemo_birq.scoring.tables import details, score_table
from nemo_birq.utils.markdown import escaped, fence_for
from nemo_birq.utils.pictures import plain
from nemo_birq.utils.progress import ProgressBars
from nemo_birq.utils.terminal import Terminal, printable
from tests.helpers.label_quality import make_model_with_losses, read_short_utterances
from tests.helpers.models import make_model
from tests.helpers.shards import noise, write
from tests.integration.test_report import make_run

pytestmark = pytest.mark.unit
HOSTILE = r"[/b][red]$\bad{$ :smile: <script>x</script> a|b" + "\x1b[2J\x9b2J\x07\udc80"
SHOWN = r"[/b][red]$\bad{$ :smile: <script>x</script> a|b" + "[2J2J"
"""The part of it that a terminal shows."""
NAME = r"[red]$\bad{$<script>x|y" + "\x1b[2J"
"""A name that a file can have; ``[/b]`` is made of two folders."""


def obeyed(printed: str) -> set[str]:
    """Returns the sequences that a terminal would obey, without colours and with rich's own for progress."""
    return set(re.findall(r"\x1b\[2J|\x9b|\x07", printed))


@pytest.fixture
def terminal() -> Terminal:
    return Terminal(file=io.StringIO(), force_terminal=True, width=100)


# --- the terminal -----------------------------------------------------------------------------------------------------


def test_a_terminal_shows_texts_as_they_are(terminal):
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text(HOSTILE, style="bold"))
    terminal.print(table)
    terminal.print(HOSTILE)
    with terminal.status(HOSTILE), ProgressBars(TextColumn("{task.description}"), console=terminal) as progress:
        progress.start(HOSTILE)
        progress.start("a")(1, HOSTILE)
    with ProgressBars(console=terminal) as progress:
        progress.start(HOSTILE)
    printed = terminal.file.getvalue()
    assert not obeyed(printed) and "\x1b[1m" in printed  # bold is rich's own
    assert printed.count(SHOWN) >= 9 and printed.encode()
    rows = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in printed.splitlines() if line.startswith("│")]
    assert len(rows) == 2 and len({len(row) for row in rows}) == 1


def test_messages_have_escapes():
    assert printable("a\x1b[2J\n\tb\udc80\x9b\x7f") == "a\\x1b[2J\n\tb\\udc80\\x9b\\x7f" and printable(12) == "12"


def lines_of() -> list[dict]:
    return [
        {
            "audio_filepath": f"{HOSTILE}{i}.wav",
            "duration": 1 + i / 10,
            "text": f"a {HOSTILE}",
            "speaker": f"{HOSTILE}{i % 3}",
        }
        for i in range(30)
    ]


def test_scores_of_hostile_texts_are_printed_and_drawn(terminal, tmp_path):
    found = summarize(lines_of(), ["a"] * 29 + [HOSTILE], "none") | {"name": HOSTILE}
    terminal.print(details(found, 3, 100))
    terminal.print(score_table({HOSTILE: found}, HOSTILE))
    printed = terminal.file.getvalue()
    assert not obeyed(printed) and printed.count("[/b][red]") > 8
    draw_score(found, HOSTILE, tmp_path / "score.png")
    assert (tmp_path / "score.png").stat().st_size > 5000


def test_scores_are_compared(tmp_path, capsys):
    for side, said in (("first", "a"), ("second", HOSTILE)):
        score = summarize(lines_of(), [said] * 30, "none") | {"name": HOSTILE, "manifest": HOSTILE, "model": HOSTILE}
        (tmp_path / f"{side}.json").write_text(json.dumps(score))
    cli.main(["compare-scores", str(tmp_path / "first.json"), str(tmp_path / "second.json")], standalone_mode=False)
    printed = capsys.readouterr().out
    assert not obeyed(printed) and "[/b][red]" in printed


def test_shards_of_files_with_hostile_names(tmp_path, capsys):
    """Their folder, a file that is not audio, and an error message have hostile texts, too."""
    inputs, out = tmp_path / "in[" / f"b]{NAME}", tmp_path / "out[" / f"b]{NAME}"
    for i in range(3):
        write(inputs / f"{i}{NAME}.wav", noise(0.5))
    (inputs / f"broken{NAME}.wav").write_bytes(b"no audio")
    options = ["--workers", "1", "--max-skipped-share", "1"]
    cli.main(["make-shards", "folder", str(inputs), "--out", str(out), *options], standalone_mode=False)
    cli.main(["verify-shards", str(out), "--workers", "1"], standalone_mode=False)
    (tar,) = out.glob("audio_*.tar")
    tar.rename(tar.with_name("audio_1.tar"))
    with pytest.raises(SystemExit):
        cli.main(["verify-shards", str(out), "--workers", "1"], standalone_mode=False)
    with pytest.raises(SystemExit) as refused:
        cli.main(["verify-shards", str(inputs)], standalone_mode=False)
    done = capsys.readouterr()
    assert not obeyed(done.out + done.err + refused.value.code) and "\\x1b[2J" in refused.value.code
    assert "3 members, no problems" in done.out and "broken[red]$" in done.out.replace("\n", "")


# --- pictures ---------------------------------------------------------------------------------------------------------


def drawn(text: str, parse_math: bool) -> bytes:
    figure = Figure(figsize=(6, 1), dpi=50)
    figure.text(0.02, 0.4, text, parse_math=parse_math)
    figure.savefig(picture := io.BytesIO(), format="png")
    return picture.getvalue()


@pytest.mark.parametrize("text", ["$x^2$", r"a\$b", r"\$x$y\\$", "5 $", "$", r"$\bad{$"])
def test_matplotlib_draws_a_text_as_it_is(text):
    assert drawn(plain(text), True) == drawn(text, False)


def test_an_utterance_with_hostile_texts_is_drawn(tmp_path):
    utterances = read_short_utterances()
    name = min(utterances.lines)
    items = [AlignmentItem(HOSTILE, 0.1, 0.5), AlignmentItem("b", 0.6, 0.2)]
    view = view_utterance(make_model_with_losses(), utterances.speech, name, items, items, 0)
    draw_utterance(view._replace(name=HOSTILE, text=HOSTILE), tmp_path / "utterance.png")
    assert (tmp_path / "utterance.png").stat().st_size > 10_000


# --- HTML -------------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.found, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found |= {tag, *(name for name, _ in attrs if name.startswith("on"))}

    def handle_data(self, data):
        self.text += data


def test_a_report_of_a_hostile_run(tmp_path, capsys, monkeypatch):
    """Names, memory tags, alarms, commands, configurations and label sets, through the real command."""
    shown = {"losses", "memory"}
    monkeypatch.setattr("nemo_birq.report.page.SECTIONS", [s for s in pictures_sections() if s.name in shown])
    config = {"cfg": {"optim": {"name": HOSTILE.encode(errors="ignore").decode()}}}
    for name in ("a", "b"):
        tag = {f"memory {NAME}": 1.0}
        folder = make_run(
            tmp_path / f"{name}[" / f"b]{name}{NAME}", yaml.dump(config), f"train.py model.x={HOSTILE!r}", **tag
        )
        alarm = {"name": NAME, "step": 7, "message": f"<img src=x onerror=alert(1)>{NAME}"}
        (folder / "alarms.json").write_text(json.dumps({"status": f'"><script>{NAME}', "alarms": [alarm]}))
        config = {"cfg": {"optim": {"name": "other"}, f"<b>{NAME}": 1}}
    cli.main(
        ["report", *(str(tmp_path / f"{n}[" / f"b]{n}{NAME}") for n in "ab"), "--out", str(tmp_path / "page")],
        standalone_mode=False,
    )
    assert not obeyed(capsys.readouterr().out)
    page = Tags((tmp_path / "page" / "index.html").read_text())
    assert not {"script", "b", "onerror"} & page.found and {"table", "img", "pre"} <= page.found
    assert page.text.count(NAME) > 10 and f"<img src=x onerror=alert(1)>{NAME}" in page.text
    assert (tmp_path / "page" / "memory_0.png").stat().st_size > 5000


def pictures_sections():
    from nemo_birq.report.catalogue import SECTIONS

    return SECTIONS


def test_a_run_whose_name_begins_with_an_underscore_is_in_the_legend():
    legend = Figure().legend(handles=[Line2D([], [], label=plain("_run"))])
    assert [text.get_text() for text in legend.get_texts()] == ["_run"] and pictures.WIDTH


# --- Markdown ---------------------------------------------------------------------------------------------------------

TEXT = NAME + "](http://x) **b** `c` \\ & &lt; \n# d"


def test_markdown_shows_a_text_as_it_is():
    parser = MarkdownIt("commonmark").enable("table")
    cells = [token for token in parser.parse(f"| a | b |\n| - | - |\n| {escaped(TEXT)} | c |") if token.type == "inline"]
    assert len(cells) == 4
    inline = cells[2]
    shown = "".join(token.content for token in inline.children)
    assert {token.type for token in inline.children} == {"text"} and shown == " ".join(printable(TEXT).split())
    assert fence_for("a", "x ```` y ```") == "`````" and fence_for("a `b`") == fence_for() == "```"


def test_a_card_of_a_hostile_record(tmp_path):
    record = {
        "steps": 1, "epochs": None, "ended": TEXT, "ranks": 1, "precision": TEXT, "status": TEXT,
        "data": {"training": [{"name": TEXT, "weight": None, "utterances": 1, "hours": 1.0}],
                 TEXT: [{"name": TEXT, "weight": None, "utterances": 1, "hours": 1.0}]},
        "settings": {"birq": {"loss": {"enhanced_weight": 0.5}, "note": "a\n```\n<script>x</script>\n```\n" + TEXT}},
        "health": {"training": {}, "validation": {}},
        "alarms": [{"name": TEXT, "step": 7, "value": 0.5, "threshold": 0.1}], "versions": {TEXT: TEXT},
    }  # fmt: skip
    card = build_card(make_model(pretraining=record, card={"license": TEXT, "datasets": [TEXT]}), f'a"b {NAME}', "x/y")
    card.save(tmp_path / "README.md")
    head, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", (tmp_path / "README.md").read_text(), re.S).groups()
    assert yaml.safe_load(head)["license"] == TEXT and yaml.safe_load(head)["datasets"] == [TEXT]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    html = [t.content for t in tokens if t.type == "html_block"]
    html += [c.content for t in tokens for c in t.children or [] if c.type == "html_inline"]
    assert sorted(text.strip() for text in html) == ["</details>", "<details><summary>Settings</summary>"]
    links = {c.attrs["href"] for t in tokens for c in t.children or [] if c.type == "link_open"}
    assert links == {"https://arxiv.org/abs/2509.15430"}
    (settings,) = [t.content for t in tokens if t.type == "fence" and t.info == "yaml"]
    assert yaml.safe_load(settings)["birq"]["note"].startswith("a\n```\n<script>")
    assert "\x1b" not in body
    rows = body.split("## Data")[1].split("Audio alone")[0]
    assert all(line.count("|") in (0, 5) for line in rows.splitlines())
    (bash,) = [t.content for t in tokens if t.type == "fence" and t.info == "bash"]
    assert "'+init_from_nemo_model=a\"b " in bash
