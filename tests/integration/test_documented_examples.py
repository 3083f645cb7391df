"""Commands and Python examples of the pages, run on the embedded corpus with tiny untrained models.

A command is found by its first words, so the current text of the page runs, shortened by further options.
"""

import ast
import json
import runpy
import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from nemo_birq import cli
from tests.helpers.documented import PAGES, Block, blocks, commands, is_shell
from tests.helpers.models import make_model
from tests.helpers.paths import CORPUS, ROOT
from tests.helpers.scoring_models import make_ctc

pytestmark = pytest.mark.integration
RUN = [
    ("data.md", "birq make-shards folder /data/podcasts", ["--workers", "1"], "podcasts/shards/dataset_card.json"),
    ("data.md", "birq verify-shards", [], None),
    ("data.md", "birq make-shards manifest /data/dev.json", ["--workers", "1"], "podcasts/dev_files/manifest.json"),
    ("extraction.md", "birq extract-features model.nemo", ["--workers", "1", "--layers", "1,2"], "features/manifest.json"),
    ("extraction.md", "birq extract-labels model.nemo data.json", ["--workers", "1", "--labels", "anchor"], "labels.json"),
    ("label_quality.md", "birq label-quality model.nemo", ["--no-kmeans"], "label_quality_model.json"),
    ("label_quality.md", "birq show-utterance model.nemo", ["--out", "utterance.png"], "utterance.png"),
    ("probing.md", "birq probe tiny.nemo", ["--epochs", "1", "--hours", "0.01", "--no-baselines"], "probe_frames_tiny.json"),
    ("comparing_encoders.md", "birq compare-encoders untr", ["--epochs", "1", "--hours", "0.01"], "encoders/encoders.json"),
    ("relabelling.md", "birq cluster-labels stage1.nemo --layer 2", ["--hours", "0.02"], "teacher.pt"),
    ("scoring.md", "birq estimate-ngram", [], "words.arpa"),
    ("scoring.md", "birq score demo.nemo", ["--out", "scores"], "scores/demo_test_greedy.json"),
    ("export.md", "birq export pretrained.nemo hub/my-encoder.nemo", [], "hub/README.md"),
]
"""Page, first words of a command, options that shorten it, and a file that it writes."""
EXECUTED = {"README.md", "docs/extraction.md", "docs/scoring.md"}
"""Pages whose Python examples run here; the others are run by the tests of what they show, or need a network."""
PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a user: models, data, and the corpus of the repository."""
    folder = tmp_path_factory.mktemp("user")
    make_model().save_to(str(folder / "model.nemo"))
    for name in ("tiny", "stage1", "pretrained", "untrained", "nest_untrained"):
        shutil.copy(folder / "model.nemo", folder / f"{name}.nemo")
    make_ctc().save_to(str(folder / "demo.nemo"))
    (folder / "tarred_manifests").symlink_to(CORPUS)
    (folder / "hub").mkdir()
    lines = [json.loads(line) for line in (CORPUS / "validation" / "validation.json").read_text().splitlines()[:4]]
    absolute = [line | {"audio_filepath": str(CORPUS / "validation" / line["audio_filepath"])} for line in lines]
    (folder / "podcasts" / "podcasts").mkdir(parents=True)
    for line in absolute:
        shutil.copy(line["audio_filepath"], folder / "podcasts" / "podcasts")
    for name in ("data.json", "test.json", "podcasts/dev.json"):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in absolute))
    return folder


def find(page: str, beginning: str, scratch: Path) -> list[str]:
    shown = [block.text for block in blocks(ROOT / "docs" / page) if is_shell(block)]
    found = [command for command in commands(shown, scratch) if " ".join(command).startswith(beginning)]
    assert found, f"docs/{page} has no command {beginning}"
    return found[0]


@pytest.mark.parametrize(("page", "beginning", "more", "written"), RUN, ids=[f"{page} {begins}" for page, begins, *_ in RUN])
def test_commands_run(page, beginning, more, written, folder, tmp_path, monkeypatch):
    program, *arguments = find(page, beginning, tmp_path)
    assert program == "birq"
    monkeypatch.chdir(folder)
    arguments = [argument.replace("/data/", f"{folder}/podcasts/") for argument in arguments]
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments, *more], prog_name="birq")
    assert not end.value.code
    assert written is None or (folder / written).is_file()


def resolve_imports(tree: ast.Module) -> None:
    """Imports the modules of an example."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                import_module(name.name)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                assert hasattr(import_module(node.module), name.name), f"{node.module} has no {name.name}"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.place)
def test_python_examples(block: Block, folder, monkeypatch, tmp_path):
    """The imports of all examples exist; those of ``EXECUTED`` run after the commands above, in the folder of the user."""
    resolve_imports(ast.parse(block.text))
    if block.page not in EXECUTED:
        return
    monkeypatch.chdir(folder)
    if block.page == "docs/extraction.md" and "lhotse" in block.text:
        arguments = ["model.nemo", "data.json", "--layers", "1,2", "--workers", "1", "--format", "lhotse"]
        with pytest.raises(SystemExit):
            cli.main(["extract-features", *arguments, "--out", str(tmp_path / "features")], prog_name="birq")
        monkeypatch.chdir(tmp_path)
    example = tmp_path / "example.py"
    example.write_text(block.text.replace("layer_4", "layer_1"))
    given = {"signal": torch.randn(2, 16000), "length": torch.tensor([16000, 8000]), "model": make_ctc()}
    runpy.run_path(str(example), init_globals=given)
