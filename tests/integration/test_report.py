"""The report shows the logged numbers of a run, in a real browser."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.losses.fused_cross_entropy import CrossEntropies
from nemo_birq.monitoring.gradient_health import GradientProducts
from nemo_birq.monitoring.metrics import logged_tags
from nemo_birq.monitoring.training_log import TrainingLog
from nemo_birq.report.catalogue import SECTIONS
from nemo_birq.report.events import scalars
from nemo_birq.report.experiment_folder import differences, read_run, read_runs
from nemo_birq.report.page import write_report
from nemo_birq.report.pictures import draw
from nemo_birq.report.table import facts, number, table
from tests.helpers.paths import ROOT
from tests.helpers.report_runs import LONG_NAME, START, loss, make_run, quality, write_events
from tests.helpers.scripts import run

pytestmark = pytest.mark.integration
HEALTH = ("perplexity", "coverage", "cumulative_coverage", "top1", "accuracy")


def cells(runs, group: str, label: str):
    return next(row.cells for row in table(runs)[group] if row.label == label)


def test_numbers_are_those_that_were_logged(tmp_path):
    first, second = make_run(tmp_path / "first"), make_run(tmp_path / "second", offset=0.25)
    runs = read_runs([str(first), str(second)])
    train, val = "Training, last logged", "Validation, last"
    for index, offset in enumerate((0.0, 0.25)):
        expected = loss(99) + offset
        assert cells(runs, train, "at step")[index].value == 99 and cells(runs, val, "at step")[index].value == 99
        assert cells(runs, train, "anchor loss (nats)")[index].value == pytest.approx(expected, abs=1e-6)
        below = cells(runs, train, "anchor loss below unigram (nats)")[index]
        assert below.value == pytest.approx(4.5 - expected, abs=1e-6) and below.best == (index == 0)
        above = cells(runs, train, "anchor accuracy above unigram")[index]
        assert above.value == pytest.approx(99 / 200 - 0.0625) and not above.best  # a tie has no best
        assert cells(runs, val, "anchor loss (nats)")[index].value == pytest.approx(expected + 0.5, abs=1e-6)
    assert [run.steps for run in runs] == [100, 100]
    assert [run.audio_hours for run in runs] == pytest.approx([1.0, 1.0])
    assert runs[0].seconds == 2 * 90


def test_no_point_is_left_out_of_a_long_run(tmp_path):
    """TensorBoard's own reader keeps a random 10,000."""
    folder = make_run(tmp_path / "long")
    writer = EventFileWriter(str(folder / "version_0"), filename_suffix=".long")
    for step in range(100, 12_100):
        summary = Summary(value=[Summary.Value(tag="train_x", simple_value=step)])
        writer.add_event(Event(wall_time=START + 1000 + step, step=step, summary=summary))
    writer.close()
    assert scalars(folder)["train_x"] == [(step, step) for step in range(100, 12_100)]


def test_a_resumed_run_is_joined_by_step(tmp_path):
    """The run stopped at 99 and resumed from a checkpoint at 60, after which it was trained again."""
    folder = make_run(tmp_path / "run")
    write_events(folder / "version_1", list(range(69, 150, 10)), offset=0.25, start=START + 500)
    (folder / "version_1" / "hparams.yaml").write_text("cfg: {optim: {lr: 0.2}}")
    run = read_run(folder)
    curve = scalars(folder)["train_anchor_loss"]
    assert [step for step, _ in curve] == list(range(9, 150, 10))
    assert [value for _, value in curve] == pytest.approx([loss(s) + (0.25 if s >= 69 else 0) for s in range(9, 150, 10)])
    assert [p.step for p in run.curves["val_anchor_loss"]] == [19, 39, 59, 79, 99, 119, 139]
    assert run.steps == 150 and run.audio_hours == pytest.approx(1.5)
    assert "from step 69 on" in run.notes[0] and "up to step 99" in run.notes[0]


def test_checkpoints_know_steps_that_no_log_line_has(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "run--val_loss=4.2-step=107-last.ckpt").touch()
    assert read_run(folder).steps == 107 and read_run(folder).audio_hours == pytest.approx(1.07)


def test_differences_of_configurations_and_commands(tmp_path):
    head = "cfg: {optim: {lr: 0.1, name: adamw}, loss_list: {a: 1}}"
    first = make_run(tmp_path / "first", head, "train.py --config-name=a name=first trainer.max_steps=5 model.optim.lr=0.1")
    other = make_run(tmp_path / "other", "cfg: {optim: {lr: 0.2, name: adamw}, extra: null}", "train.py name=other")
    assert differences(read_runs([str(first), str(other)])) == {
        "model.optim.lr": [0.1, 0.2],
        "--config-name": ["a", None],
        "trainer.max_steps": ["5", None],
    }


def test_bad_input_is_named_with_a_remedy(tmp_path):
    good, other = make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")
    (tmp_path / "empty").mkdir()

    def refused(message: str, *arguments: Path | str) -> None:
        with pytest.raises(ValueError, match=message):
            read_runs([str(argument) for argument in arguments])

    refused("nowhere.*nemo_experiments/<name>", tmp_path / "nowhere")
    refused(r"empty.*create_tensorboard_logger=true", tmp_path / "empty")
    refused(r"a/run.*\btwice\b", good, good / ".")
    refused(r"\brun: .*first=\S*a/run second=\S*b/run", good, other)
    assert [run.name for run in read_runs([f"first={good}", f"second={other}"])] == ["first", "second"]
    refused(r"a/run, \S*b/run", tmp_path)


def rewrite_events(folder: Path, change) -> None:
    path = next(folder.rglob("events.out*"))
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


def flip(data: bytearray) -> None:
    data[len(data) // 2] ^= 255


BROKEN_FILES = {
    "alarms.json": (b'{"status": "heal', r"alarms\.json is damaged.*JSON.*line 1 column 12"),
    "alarms.json without alarms": (b'{"status": "healthy"}', r"alarms\.json.*'alarms'"),
    "alarms.json of wrong types": (b'{"status": [], "alarms": [3, {"message": 5}]}', r"2 of its 2 alarms.*status is '\[\]'"),
    "label_quality.json": (b"[]", r"label_quality\.json.*JSON object"),
    "label_quality.json, nested": (b"[" * 100_000, r"label_quality\.json is damaged.*JSON"),
    "label_quality.json, rows": (
        b'{"rows": [{"labels": "layer", "layer": "q", "pnmi": 0.5}, {"pnmi": "x"}, {"pnmi": NaN}, {"pnmi": 1e9}, 7,'
        b' {"labels": "layer", "layer": 2, "pnmi": 0.5}]}',
        r"label_quality\.json is damaged, 5 of its 6 rows",
    ),
    "hparams.yaml": (b"- 1", r"hparams\.yaml is damaged.*no mapping"),
    "hparams.yaml, cfg": (b"cfg: 3", r"hparams\.yaml is damaged.*no mapping"),
    "hparams.yaml, nested": (b"a: " + b"[" * 5000 + b"]" * 5000, r"hparams\.yaml is damaged"),
    "hparams.yaml, not UTF-8": (b"\xff\xfe", r"hparams\.yaml is damaged.*utf-8"),
    "cmd-args.log": (b"\xff", r"cmd-args\.log is damaged"),
    "events.out.garbage": (b"hello" * 100, r"events\.out\.garbage is damaged.*nothing of it"),
    "events, half a file": (
        lambda data: data.__delitem__(slice(len(data) // 2, None)),
        "damaged or cut off.*after step 49 ",
    ),
    "events, a byte": (flip, "damaged or cut off.*after step 49 "),
}


@pytest.mark.parametrize("file", BROKEN_FILES)
def test_damaged_files_are_named_and_the_page_is_drawn_without_them(tmp_path, monkeypatch, file):
    monkeypatch.setattr("nemo_birq.report.page.draw", lambda picture, runs: None)  # of the curves, which other tests draw
    content, message = BROKEN_FILES[file]
    folder = make_run(tmp_path / "run")
    if callable(content):
        rewrite_events(folder, content)
    else:
        name = file.split(",")[0].split(" ")[0]
        (folder / ("version_0" if name == "hparams.yaml" else "") / name).write_bytes(content)
    run = read_run(folder)
    assert re.search(message, " ".join(run.notes)), run.notes
    assert str(tmp_path) not in " ".join(run.notes)
    text = write_report([run], tmp_path / "report").read_text()
    assert "Left out: " in text and "no alarms)" not in text
    assert ("unknown: alarms.json is damaged" in text) == file.startswith("alarms")
    assert len(run.curves) == 12 and run.steps == (50 if file.startswith("events,") else 100)


def test_a_loss_that_is_not_a_number_is_shown_as_such(tmp_path, monkeypatch):
    folder = make_run(tmp_path / "run")
    write_events(folder / "version_0", [101], start=START + 1000, train_anchor_loss=math.nan, learning_rate=math.inf)
    run = read_run(folder)
    assert number(math.nan) == "nan" and number(-math.inf) == "-inf"
    assert "nan" in [cell.text for rows in table([run]).values() for row in rows for cell in row.cells]
    assert "nan at step 101" in draw(SECTIONS[0].pictures[0], [run]).alt
    monkeypatch.setattr("nemo_birq.report.page.draw", lambda picture, runs: None)
    assert "<td>nan</td>" in write_report([run], tmp_path / "report").read_text()


def test_a_page_of_something_else_is_not_overwritten(tmp_path):
    run = read_run(make_run(tmp_path / "run"))
    (tmp_path / "index.html").write_text("mine")
    with pytest.raises(ValueError, match=r"index\.html.*--out"):
        write_report([run], tmp_path)
    assert (tmp_path / "index.html").read_text() == "mine"


def test_missing_things_are_said_and_alarms_are_words(tmp_path):
    folder = make_run(tmp_path / "run")
    alarm = {"name": "label_collapse", "step": 42, "value": 0.1, "threshold": 0.3, "message": "Two codes <are> left."}
    (folder / "alarms.json").write_text(json.dumps({"status": "unhealthy", "alarms": [alarm]}))
    page = write_report([read_run(folder)], tmp_path / "report")
    text = page.read_text()
    assert (
        "Step 42, label collapse." in text and "Two codes &lt;are&gt; left." in text and "unhealthy: see the alarms" in text
    )
    assert "Not logged by this run: Gradient norm; Gradient norm of each task; Cosine" in text
    drawn = {path.stem for path in page.parent.glob("*.png")}
    assert len(drawn) == text.count("<img") and {"anchor_loss_training", "normalized_entropy"} <= drawn
    assert "gradient_norms" not in drawn and "quality_layers" not in drawn


def test_curves_stand_before_the_table_which_is_folded(tmp_path):
    text = write_report([read_run(make_run(tmp_path / "run"))], tmp_path / "report").read_text()
    places = [text.index(found) for found in ("<dl>", "<figure>", 'id="quality"', '<details id="table">', 'id="commands"')]
    assert places == sorted(places) and "<details open" not in text
    number_of_rows = int(re.search(r"Last values: (\d+) rows", text)[1])
    assert number_of_rows == text.count('<th scope="row">') > 10


def test_six_numbers_at_the_top_are_those_of_the_run(tmp_path):
    folder = make_run(tmp_path / "run")
    text = write_report([read_run(folder)], tmp_path / "report").read_text()
    top = text[text.index("<dl>") : text.index("</dl>")]
    anchor, enhanced = loss(99) + 0.5, loss(99) + 1
    for expected in (
        "<dd>100<span>in 3 min 00 s", "<dd>about 1 h", "<dd>18<span>hours of audio per hour",
        f"anchor loss, validation</dt><dd>{anchor:.2f} nats<span>{4.5 - anchor:.2f} below its unigram entropy of 4.50",
        f"enhanced loss, training</dt><dd>{enhanced:.2f} nats<span>{4 - enhanced:.2f} below its unigram entropy of 4.00",
        "<dd>0.75 of the largest<span>healthy above 0.3",
    ):  # fmt: skip
        assert expected in top
    assert len(facts(read_run(folder))) == top.count("<dt>") == 6


def test_best_values_are_marked_among_comparable_steps_only(tmp_path):
    first, late, later = (make_run(tmp_path / name, offset=o) for name, o in (("a", 0), ("b", 0.25), ("c", 0.5)))
    write_events(late / "version_0", [103], start=START + 1000, offset=0.25)
    write_events(later / "version_0", [107], start=START + 1000, offset=0.5)
    label = "anchor loss below unigram (nats)"

    def best(*folders: Path) -> list[bool]:
        return [cell.best for cell in cells(read_runs([str(f) for f in folders]), "Training, last logged", label)]

    assert best(first, late) == [True, False]  # after 99 and 103 steps
    assert best(late, later) == [True, False]
    assert best(first, later) == [False, False] == best(first, late, later)[:2]  # after 99 and 107


def test_no_rule_of_the_page_cuts_text(comparison):
    """Lines break anywhere, and nothing is hidden, scrolled sideways or shortened."""
    style = re.search(r"<style>(.*)</style>", comparison.read_text(), re.S)[1]
    assert not re.search(r"nowrap|ellipsis|line-clamp|overflow(-x)?:|white-space: (?!pre-wrap)", style)
    assert re.search(r"body \{[^}]*overflow-wrap: anywhere", style)


def test_memory_that_nobody_logged_is_named_and_other_tags_are_shown(tmp_path):
    without, other = make_run(tmp_path / "without"), make_run(tmp_path / "other", gpu_memory_gib=8.0)
    text = write_report([read_run(without)], tmp_path / "a").read_text()
    assert re.search(r'<h2 id="memory">Memory</h2>\s*<p class="quiet">Not logged by this run: Memory\.</p>', text)
    write_report([read_run(other)], tmp_path / "b")
    assert (tmp_path / "b" / "memory_0.png").is_file() and not (tmp_path / "b" / "memory_gb.png").exists()


def test_whatever_training_logs_has_a_place():
    """The report has a place for everything that the model measures, by its own names."""
    codes, loss = torch.zeros(4, 1, dtype=torch.long), torch.tensor(1.0)
    paths = ("anchor", "enhanced_prediction", "enhanced_label")
    log = TrainingLog(num_codes=8, num_books=1, sample_rate=16_000)
    log.health.update(
        torch.tensor(8), codes, CrossEntropies(loss, loss, loss, *[codes] * 4, torch.ones(1, 8), loss, loss, loss)
    )
    log.count(SpeechBatch(torch.zeros(1, 1600), torch.tensor([1600])))
    log.gradients = GradientProducts(paths, torch.eye(3, dtype=torch.float64))
    measured = {f"val_{name}" for name in log.health.compute()} | {f"train_{name}" for name in log.collect()}
    assert len(measured) > 40
    # The same number as *_top1.
    assert {tag for tag in measured - logged_tags() if not tag.endswith("_unigram_accuracy")} == set()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Output of the script for two runs with everything that can be logged."""
    folder = tmp_path_factory.mktemp("comparison")
    gradients = ("norm_anchor", "norm_enhanced", "norm_enhanced_prediction", "norm_enhanced_label", "cosine")
    health = [f"{task}_{name}" for task in ("anchor", "enhanced") for name in HEALTH]
    names = [
        *health,
        "selection_agreement",
        "anchor_agreement",
        "enhanced_churn",
        "grad_norm",
        "enhanced_weight",
        "enhanced_replaced",
    ]
    more = {f"train_{name}": 0.5 for name in [*names, *(f"gradient_{name}" for name in gradients)]}
    more |= {"val_enhanced_previous_agreement": 0.5, "train_masked_fraction": 0.5, "train_skipped_share": 0.0}
    more |= {"train_mfu": 0.2, "train_padding_share": 0.05}
    more |= {"train_memory_gb": 8.0, "gpu_memory_gib": 8.0, "val_enhanced_loss": 3.5}
    command = f"train.py model.train_ds.manifest_filepath=/{'x' * 150}.json"
    runs = [make_run(folder / "one", **more), make_run(folder / LONG_NAME, "cfg: {a: 1}", command, offset=0.25, **more)]
    for step in (10, 20):
        (runs[0] / f"label_quality_{step}.json").write_text(quality(step, step / 100))
    (runs[0] / "alarms.json").write_text('{"status": "healthy", "alarms": []}')
    printed = run("report.py", *map(str, runs), "--out", str(folder / "report"))
    assert "one: 100 steps, 0 alarm(s)" in printed
    return folder / "report" / "index.html"


def test_page_needs_nothing_else(comparison):
    text = comparison.read_text()
    assert "<script" not in text and not re.search(r"""(?:src|href|srcset)=["'](?!data:|#)""", text) and "url(" not in text
    assert "Not logged" not in text and len(text) < 1_500_000


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page(comparison, tmp_path, scheme):
    try:
        import PySide6.QtWebEngineCore  # noqa: F401
    except ImportError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no browser engine: pip install -r requirements-test.txt brings PySide6, which says: {error}")
    shot = str(tmp_path / "shot.png")
    command = [sys.executable, str(ROOT / "tests/helpers/browser.py"), str(comparison), scheme, shot, "1280", "390"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout)
    assert seen["console"] == []
    drawn = sorted(path.stem for path in comparison.parent.glob("*.png"))
    for width, look in seen["widths"].items():
        assert look["viewport"] == int(width) and look["dark"] == (scheme == "dark")
        assert look["width"] <= look["viewport"], "the page is wider than the window"
        assert look["fetched"] == [] == look["cut"] == look["opened"]["cut"]
        assert len(look["images"]) == len(drawn) >= 20
        assert all(image["natural"] > 800 and image["shown"] > 300 and len(image["alt"]) > 40 for image in look["images"])
        row = next(row for row in look["opened"]["rows"] if row[0] == "anchor loss (nats)")
        assert row[1:] == [f"{loss(99) + 0.5:.3f}", f"{loss(99) + 0.75:.3f}"]
        shot = Image.open(tmp_path / f"shot_{width}.png").convert("RGB")
        assert shot.width == int(width) and shot.height >= look["height"]
        colours = shot.resize((shot.width // 2, shot.height // 2)).getcolors(1 << 24)
        ground = sum(max(colours)[1]) / 3
        assert len(colours) > 100 and (ground < 60 if scheme == "dark" else ground > 200)
        for top in range(0, shot.height - 800, 800):  # no screen without anything on it
            assert len(shot.crop((0, top, shot.width, top + 800)).getcolors(1 << 24)) > 20
    sources = [image["source"] for image in seen["widths"]["1280"]["images"]]
    assert len(set(sources)) == len(sources)
