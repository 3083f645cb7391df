"""The demo without its training: its last lines, and its message for a step that fails."""

from pathlib import Path

import demo
import pytest

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("pretrained", "ahead"), [(0.347, True), (0.42, False)])
def test_it_ends_with_the_page_the_result_and_what_to_do_next(pretrained, ahead):
    summary = {"pretrained": {"cer": pretrained}, "scratch": {"cer": 0.42}}
    summary |= {"seconds": 190, "status": "healthy", "alarms": []}
    page, result, following = demo.last_lines(summary, Path("out/report/index.html"))
    assert page.split() == ["report", "out/report/index.html"]
    assert f"CER {pretrained:.1%} pretrained, 42.0% from scratch, in 190 s; pretraining healthy, no alarms" in result
    assert ("too few to be ahead" in result) != ahead
    assert "birq make-shards folder AUDIO --out SHARDS" in following and "birq pretrain" in following


def test_a_step_that_fails_is_shown_with_the_end_of_its_log(tmp_path, capsys):
    """The step reports a folder that is not a run, in a fork of this process."""
    log = tmp_path / "report.log"
    run = demo.start(log, 1, "report.py")
    with pytest.raises(SystemExit):
        demo.wait("drawing", [log], [run], 1)
    assert run.exitcode == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "drawing failed; the end of" in printed and "is not a folder" in printed
