"""Pictures of the report: they show the logged numbers in distinguishable colours, and nothing is cut off."""

import io
from dataclasses import replace

import pytest
from matplotlib.text import Text
from PIL import Image

from nemo_birq.monitoring.metrics import logged_tags
from nemo_birq.report import pictures
from nemo_birq.report.catalogue import SECTIONS
from nemo_birq.report.experiment_folder import read_run
from nemo_birq.report.page import write_report
from nemo_birq.report.pictures import draw
from nemo_birq.report.quality_pictures import draw_layers, draw_quality_over_time, quality_over_time
from nemo_birq.utils.colours import RUNS
from tests.helpers.report_runs import LONG_NAME, START, make_run, quality, write_events

pytestmark = pytest.mark.integration


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that are drawn, as matplotlib has them."""
    drawn = []

    class Kept(pictures.Figure):
        def savefig(self, *args, **kwargs):
            super().savefig(*args, **kwargs)
            drawn.append(self)

    monkeypatch.setattr(pictures, "Figure", Kept)
    return drawn


def test_nothing_of_a_picture_is_cut_off(tmp_path, figures):
    """Titles and legends, of every picture with all its lines, as the renderer measures them."""
    folder = make_run(tmp_path / "run", **dict.fromkeys(logged_tags(), 0.5))
    for step in (10, 20):
        (folder / f"label_quality_{step}.json").write_text(quality(step, 0))
    runs = [replace(read_run(folder), name=name) for name in ("one", LONG_NAME, "collapse", "unnormalized")]
    page = write_report(runs, tmp_path / "report")
    assert page.stat().st_size < 1_500_000
    assert len(figures) == 2 * len(list((tmp_path / "report").glob("*.png"))) > 40
    for figure in figures:
        (axes,) = figure.axes
        assert figure.legends
        texts = [child for child in axes.get_children() if isinstance(child, Text)]
        for text in [
            *texts,
            axes.xaxis.label,
            axes.yaxis.label,
            *(t for legend in figure.legends for t in legend.get_texts()),
        ]:
            box = text.get_window_extent()
            inside = min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
            assert inside or not text.get_text().strip(), f"{text.get_text()} is at {box} of {figure.bbox}"
        for legend in figure.legends:
            assert legend.get_window_extent().y1 <= axes.xaxis.label.get_window_extent().y0
    over_steps = {figure.axes[0].get_xlim() for figure in figures if figure.axes[0].get_xlabel() == "step"}
    assert len(over_steps) == 1


def test_each_run_has_exactly_its_colour(tmp_path):
    """Although the files have few colours."""
    runs = [replace(read_run(make_run(tmp_path / "run")), name=str(number)) for number in range(len(RUNS))]
    drawn = draw(SECTIONS[0].pictures[0], runs)
    for data in (drawn.light, drawn.dark):
        shown = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in Image.open(io.BytesIO(data)).convert("RGB").getcolors()}
        assert set(RUNS) <= shown and len(shown) < 64


def test_zeros_are_named_and_not_drawn(tmp_path, figures):
    folder = make_run(tmp_path / "run", train_skipped_share=0.0, train_enhanced_floor=0.0, train_mfu=0.2)
    page = write_report([read_run(folder)], tmp_path / "report")
    assert "0 throughout, and not drawn: Skipped: utterances that could not be used.</p>" in page.read_text()
    assert not (page.parent / "skipped_share.png").exists() and (page.parent / "mfu.png").is_file()
    (enhanced,) = (f for f in figures[::2] if f.axes[0].get_title(loc="left") == "Enhanced loss, training")
    assert min(min(line.get_ydata()) for line in enhanced.axes[0].lines) > 0  # without the floor


def test_a_mark_stands_where_the_enhanced_loss_begins(tmp_path, figures):
    """The step is the configured one, or without a configuration the first one with a weight above 0."""
    config = "cfg: {birq: {loss: {start_step: 42, enhanced_weight: 0.5}}}"
    configured = read_run(make_run(tmp_path / "configured", config))
    logged = read_run(make_run(tmp_path / "logged", train_enhanced_weight=0.0))
    write_events(logged.folder / "version_0", [109, 119], start=START + 1000, train_enhanced_weight=0.1)
    logged = read_run(logged.folder)
    never = read_run(make_run(tmp_path / "never", config.replace("0.5", "0")))
    assert [run.enhanced_begins for run in (configured, logged, never)] == [42, 109, None]
    for runs, steps in (([configured], [42]), ([configured, logged, never], [42, 109]), ([never], [])):
        figures.clear()
        draw(SECTIONS[0].pictures[0], runs)
        for figure in figures:
            marks = [line.get_xdata() for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
            assert [mark[0] for mark in marks] == steps
            named = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
            assert ("enhanced loss begins" in named) == bool(steps)


@pytest.mark.parametrize(("low", "high", "labels"), [
    (0.6, 12, ["1", "2", "5", "10"]), (1e-4, 10, ["0.0001", "0.001", "0.01", "0.1", "1", "10"]), (2.1, 2.9, ["2.2", "2.4"]),
])  # fmt: skip
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(low, high, labels):
    figure = pictures.Figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [low, high])
    pictures.set_log_axis(axes)
    figure.draw_without_rendering()
    shown = {label.get_text() for label in axes.get_yticklabels()}
    assert set(labels) <= shown and len(shown) < 10 and all(text == f"{float(text):g}" for text in shown)


def test_a_nemo_file_is_the_end_of_training(tmp_path):
    """It has no step. As the oldest evaluation, it would be drawn first and its layers not at all."""
    folder = make_run(tmp_path / "run")
    looks = {"a": (None, 0.05), "b": (50, 0.03), "c": (10, 0.01), "d": (100, 0.05)}  # d: the checkpoint of the end
    for name, (step, shift) in looks.items():
        (folder / f"label_quality_{name}.json").write_text(quality(step, shift))
    run = read_run(folder)
    assert [look["step"] for look in run.quality] == [10, 50, 100, None] and run.steps == 100
    enhanced = quality_over_time(run)["enhanced"]
    assert [p.step for p in enhanced] == [10, 50, 100]
    assert [p.value for p in enhanced] == pytest.approx([0.21, 0.23, 0.25])
    assert "enhanced: 0.21 at step 10, 0.25 at step 100" in draw_quality_over_time([run]).alt
    assert "enhanced 2: 0.250" in draw_layers([run]).alt
