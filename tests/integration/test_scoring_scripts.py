"""The scripts that score, as a user runs them."""

import json
import runpy
import sys

import pytest
from nemo.collections.asr.models import ASRModel

from tests.helpers.manifests import short_lines, write_manifest
from tests.helpers.paths import ROOT
from tests.helpers.scoring_models import make_ctc
from tests.helpers.scripts import run

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A recognizer's .nemo and a test set of 24 utterances with a speaker each."""
    folder = tmp_path_factory.mktemp("recognizer")
    make_ctc().save_to(str(folder / "small.nemo"))
    write_manifest(folder / "test.json", short_lines(24))
    return folder


def call(script: str, *arguments: object, monkeypatch) -> None:
    """Runs a script in this process, because another one would only import NeMo again."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(ROOT / "scripts" / script), run_name="__main__")


def test_arguments_that_are_refused_before_a_model_is_opened(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ASRModel, "restore_from", None)  # whoever opens one fails in another way
    silent = write_manifest(tmp_path / "silent.json", [short_lines(1)[0] | {"text": None}])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    score, estimate = (
        ("score.py", files / "small.nemo", files / "test.json"),
        ("estimate_ngram.py", "--out", tmp_path / "lm"),
    )
    for command, message in (
        ((*score, "--out", tmp_path / "latin.txt"), r"score\.py: .*latin\.txt"),
        ((*score, "--lm", tmp_path / "none.arpa"), r"score\.py: .*none\.arpa"),
        ((*estimate, silent), r"silent\.json.*\b1 of 1 .*spk030-test-00000\.opus"),
        ((*estimate, tmp_path / "latin.txt"), r"latin\.txt.*UTF-8"),
    ):
        with pytest.raises(SystemExit, match=message):
            call(*command, monkeypatch=monkeypatch)
    for device in ("foo", "cuda:99"):
        with pytest.raises(SystemExit):
            call(*score, "--device", device, monkeypatch=monkeypatch)
        assert f"--device {device} cannot be used" in capsys.readouterr().err


def test_commands_of_a_user(files, capsys, monkeypatch):
    test, out = files / "test.json", files / "scores"
    write_manifest(files / "dev.json", short_lines(30)[24:])
    lm = files / "tokens.arpa"
    call("estimate_ngram.py", test, "--out", lm, "--tokens-of", files / "small.nemo", "--order", 3, monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"tokens\.arpa.*--out"):
        call("estimate_ngram.py", test, "--out", lm, monkeypatch=monkeypatch)

    arguments = ["small.nemo", "test.json", f"second={test}"]
    printed = run("score.py", *(str(files / name) if "=" not in name else name for name in arguments), fresh=True)
    greedy = json.loads((out / "small_test_greedy.json").read_text())
    assert len(greedy["utterances"]) == 24 and greedy["decoding"] == "greedy_batch, EncDecCTCModel"
    assert f"{100 * greedy['wer']:.1f}" in printed and "lower case" in printed and "worst utterances" in printed
    assert (out / "small_test_greedy.png").stat().st_size > 5000 and (out / "small_second_greedy.json").exists()

    capsys.readouterr()
    call(
        "score.py", files / "small.nemo", test, "--lm", lm, "--tune", files / "dev.json", "--alphas", 0, 1, "--betas", 0,
        monkeypatch=monkeypatch,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "Chosen: alpha" in printed and "3-gram of tokens" in " ".join(printed.split())
    tuned = json.loads((out / "small_tuning_dev_tokens.json").read_text())
    assert [(trial["alpha"], trial["beta"]) for trial in tuned["trials"]] == [(0, 0), (1, 0)]
    fused = json.loads((out / "small_test_tokens.json").read_text())
    assert fused["made_from"]["decoding"]["alpha"] in (0, 1)
    call("score.py", files / "small.nemo", test, monkeypatch=monkeypatch)
    assert "already scored" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"test\.json.*--tune"):
        call("score.py", files / "small.nemo", test, "--lm", lm, "--tune", test, monkeypatch=monkeypatch)
    with pytest.raises(SystemExit, match=r"small_test_greedy\.json.*\bnormalization\b.*--redo"):
        call("score.py", files / "small.nemo", test, "--normalization", "none", monkeypatch=monkeypatch)

    pair = (out / "small_test_greedy.json", out / "small_test_tokens.json")
    call("compare_scores.py", *pair, "--out", files / "comparison.json", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    found = json.loads((files / "comparison.json").read_text())
    printed = " ".join(printed.split())
    assert (
        "permutation of utterances" in printed
        and found["wer"]["first"] == greedy["wer"]
        and found["wer"]["second"] == fused["wer"]
    )
