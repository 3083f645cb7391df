"""The pages of results of a user: their paths, their creation, and text outside of markers, which is kept."""

import re
import shutil
import sys
from pathlib import Path

import experiment
import pytest
from experiments.budgets import ROOT, expand, read_budget
from experiments.corpora import open_corpus
from experiments.drawing.page import COMMITTED_PAGE, COMMITTED_RESULTS, default_page, draw_pages
from experiments.drawing.records import read_groups
from experiments.stages import RunPlan, Stage, plan_run

pytestmark = pytest.mark.unit


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two scored records and one of an ablation, like those of a user."""
    folder = tmp_path / "out" / "results"
    for name in ("cpu/synthetic/best_rq_seed0.json", "cpu/synthetic/birq_seed0.json", "recovery/synthetic/paper_seed0.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(COMMITTED_RESULTS / name, folder / name)
    return folder


def test_pages_are_created_and_then_redrawn(results: Path):
    page = default_page(results)
    assert page == results.parent / "results.md" and not page.exists()
    written = draw_pages(read_groups(results), page)
    pages = [page, *(page.with_name(f"results_{name}.md") for name in ("synthetic", "ablations"))]
    texts = [path.read_text() for path in pages]
    headings = [re.findall(r"^## (.*)$", text, re.MULTILINE) for text in texts]
    scored, unscored = (
        ["Errors of the recognizers", "Labels", "Training", "Run it again"],
        ["Ablations", "Labels", "Run it again"],
    )
    assert headings == [[], scored, unscored]
    assert "| `birq` − `best_rq` | 1 |" in texts[1] and "| `paper` |" in texts[2]
    linked = set(re.findall(r"\]\(pictures/(.*?\.png)\)", "".join(texts)))
    assert linked == {path.name for path in (page.parent / "pictures").iterdir()}
    assert set(written) == {*pages, *(page.parent / "pictures" / name for name in linked)}
    mine = texts[1].replace("## Labels", "## Labels\n\nMy own thoughts.")
    pages[1].write_text(mine)
    draw_pages(read_groups(results), page)
    assert [path.read_text() for path in pages] == [texts[0], mine, texts[2]]


def test_a_page_without_data_for_its_parts_says_so(results: Path):
    page = results.parent / "results_ablations.md"
    page.write_text("<!-- begin: errors -->\n<!-- end: errors -->\n")
    draw_pages(read_groups(results), results.parent / "results.md")
    assert "No run has data for this part." in page.read_text() and "### recovery" not in page.read_text()


def test_pages_of_two_names_in_one_folder_keep_their_files_apart(results: Path, tmp_path: Path):
    written = [draw_pages(read_groups(results), tmp_path / f"{name}.md") for name in ("one", "two")]
    assert not set(written[0]) & set(written[1])


def arguments(monkeypatch: pytest.MonkeyPatch, *given: str):
    monkeypatch.setattr(sys, "argv", ["experiment.py", "--budget", "smoke", *given])
    return experiment.arguments()


def test_results_go_to_the_users_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(ROOT)
    args = arguments(monkeypatch)
    assert (args.out, args.results) == (ROOT / "experiments_out", ROOT / "experiments_out" / "results")
    assert experiment.draw_command(args.results) == "python scripts/draw_results.py experiments_out/results"
    args = arguments(monkeypatch, "--out", str(tmp_path))
    assert args.results == tmp_path / "results"
    assert experiment.draw_command(args.results) == f"python scripts/draw_results.py {tmp_path}/results"
    args = arguments(monkeypatch, "--results", "docs/results/experiments")
    assert args.results == COMMITTED_RESULTS and default_page(args.results) == COMMITTED_PAGE
    assert experiment.draw_command(args.results) == "python scripts/draw_results.py"
    assert "experiments_out/" in (ROOT / ".gitignore").read_text().split()


def test_the_hash_of_a_setting_is_that_of_the_committed_records():
    """With another hashed form, all committed results would be those of another setting."""
    (setting,) = expand("smoke", read_budget("smoke"), ["birq"])
    stages = (Stage("pretrain", ("scripts/x.py", "a='b c'"), "x"), Stage("finetune", ("scripts/y.py",), "y"))
    run = RunPlan(setting, open_corpus("embedded", 0.01), stages, {"model": {"b": 1, "a": None}}, {"c": [0.5, "ä"]})
    assert run.setting_hash == "104ca14f572c6fd3"


def test_a_labelled_folder_replaces_the_first_shards(tmp_path: Path):
    """The layout of librispeech: a folder for pretraining, another one with texts, and evaluation sets of single files."""
    corpus = ROOT / "tarred_manifests"
    for name, count in (("train-960", 3), ("train-100", 2)):
        (tmp_path / name / "sharded_manifests").mkdir(parents=True)
        for number in range(count):
            for file in (f"sharded_manifests/manifest_{number}.json", f"audio_{number}.tar"):
                shutil.copy(corpus / "train" / file, tmp_path / name / file)
    for name, split in (("dev-other", "validation"), ("test-other", "test")):
        shutil.copytree(corpus / split, tmp_path / name)
        (tmp_path / name / f"{split}.json").rename(tmp_path / name / "tarred_audio_manifest.json")
    found = open_corpus(f"librispeech={tmp_path}", 1000.0)
    shards = open_corpus("embedded", 0.01)
    assert found.last_shard == 2 and 0 < found.labelled.hours < found.hours < shards.hours
    assert found.labelled.overrides[1].endswith("=$CORPUS/train-100/audio__OP_0..1_CL_.tar")
    assert found.labelled.lines is None
    (setting,) = expand("smoke", read_budget("smoke"), ["scratch"])
    assert [stage.name for stage in plan_run(setting, found).stages] == ["untrained", "finetune"]
