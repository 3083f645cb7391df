"""Probes of audio: representations, sets, and the script as a user runs it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from nemo_birq.evaluation.encoders.nemo import LogMel, NemoEncoder
from nemo_birq.evaluation.label_quality.alignments import phones_at, read_alignments
from nemo_birq.evaluation.probing.data import open_sets
from nemo_birq.evaluation.probing.representations import Representation, check_memory, represent
from nemo_birq.extraction.data import make_loader
from nemo_birq.loading import LoadedEncoder
from tests.helpers.models import SAMPLE_RATE, make_model
from tests.helpers.paths import CORPUS
from tests.helpers.scripts import run

pytestmark = pytest.mark.integration

CTM = {"train": str(CORPUS / "test" / "phones.ctm"), "dev": str(CORPUS / "validation" / "phones.ctm")}
TEST, VALIDATION = CORPUS / "test" / "test.json", CORPUS / "validation" / "validation.json"


def read(manifest: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, str]:
    """The first utterances of the test and validation sets, and the last of the test set."""
    folder = tmp_path_factory.mktemp("sets")
    found = {}
    for name, source, chosen in (
        ("train", TEST, slice(0, 30)),
        ("dev", VALIDATION, slice(0, 8)),
        ("test", TEST, slice(50, 60)),
    ):
        lines = [json.loads(line) for line in source.open()][chosen]
        lines = [line | {"audio_filepath": str(source.parent / line["audio_filepath"])} for line in lines]
        (folder / f"{name}.json").write_text("\n".join(map(json.dumps, lines)))
        found[name] = str(folder / f"{name}.json")
    return found


@pytest.fixture(scope="module")
def opened() -> LoadedEncoder:
    return LoadedEncoder(make_model(seed=1).eval())


def test_representations_of_audio(opened, paths):
    model = opened.model
    sets, task = open_sets(paths, "text", CTM | {"test": CTM["train"]}, None, SAMPLE_RATE)
    assert task.name == "frames" and "SIL" in task.symbols
    untrained = NemoEncoder.untrained(opened).encoder
    representations = {
        "log-mel": Representation(LogMel(opened), [1]),
        "untrained": Representation(NemoEncoder(opened, untrained), [1, 3]),
        "pretrained": Representation(NemoEncoder(opened), [1, 3]),
    }
    outputs = represent(sets["dev"].data, sets["dev"].rows, representations, 0, lambda seconds: None)
    assert sorted(outputs.rows) == sets["dev"].rows
    splits = outputs.splits(sets["dev"], task)
    alignments = read_alignments(CTM["dev"], {Path(line["audio_filepath"]).stem for line in sets["dev"].lines})
    counts, targets = splits["pretrained"].counts, splits["pretrained"].targets
    total = sum(counts)
    assert splits["pretrained"].frames.shape == (2, total, 32) == splits["untrained"].frames.shape
    assert splits["log-mel"].frames.shape == (1, total, 80)

    # The first utterance is the longest; alone, and by the model's own functions, it is the same.
    line = max(sets["dev"].lines, key=lambda line: line["duration"])
    row = sets["dev"].lines.index(line)
    speech = next(iter(make_loader(sets["dev"].data, [[row]], 0))).speech
    features, lengths = model.preprocessor(input_signal=speech.signal, length=speech.signal_length)
    with torch.inference_mode():
        last, length = model.encoder(audio_signal=features, length=lengths)
        other, _ = untrained(audio_signal=features, length=lengths)
    assert counts[0] == int(length)
    for name, output in (("pretrained", last), ("untrained", other)):
        torch.testing.assert_close(
            splits[name].frames[1, : counts[0]].float(), output[0, :, : counts[0]].T, atol=4e-3, rtol=2e-3
        )
    mel = features[0, :, : 4 * counts[0]].T.reshape(-1, 80)
    torch.testing.assert_close(splits["log-mel"].frames[0, : len(mel)].float(), mel, atol=4e-3, rtol=2e-3)
    expected = phones_at(alignments.phones[Path(line["audio_filepath"]).stem], 0.04 * np.arange(counts[0]))
    assert [task.symbols[i] if i >= 0 else None for i in targets[0].tolist()] == expected
    # A part of the utterances, as where another task lacks some
    few = sets["dev"]._replace(rows=[row], lines=[line])
    part = outputs.splits(few, task)["pretrained"]
    assert part.counts == counts[:1] and torch.equal(part.frames, splits["pretrained"].frames[:, : counts[0]])
    assert torch.equal(part.targets[0], targets[0])
    # New weights of the same shape, always the same
    state = untrained.state_dict()
    assert state.keys() == model.encoder.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in NemoEncoder.untrained(opened).encoder.state_dict().items())
    assert not torch.equal(untrained.layers[0].self_attn.linear_q.weight, model.encoder.layers[0].self_attn.linear_q.weight)


def test_characters_and_lists_of_phones(paths, tmp_path):
    sets, task = open_sets(paths, "text", None, None, SAMPLE_RATE)
    assert (task.name, task.metric) == ("ctc", "CER") and " " in task.symbols and task.num_outputs == len(task.symbols) + 1
    target = sets["test"].targets(task, 0, 99, None)
    assert "".join(task.symbols[i] for i in target) == sets["test"].lines[0]["text"]
    for name in paths:
        lines = read(paths[name])
        lines = [line | {"phones": [["DH", "AH0"], ["K_B", "AE1_I", "T_E"]]} for line in lines]
        (tmp_path / f"{name}.json").write_text("\n".join(map(json.dumps, lines)))
    sets, task = open_sets({name: str(tmp_path / f"{name}.json") for name in paths}, "phones", None, None, SAMPLE_RATE)
    assert task.metric == "PER" and task.symbols == ["AE", "AH", "DH", "K", "T"]
    few, _ = open_sets(paths, "text", None, 0.01, SAMPLE_RATE)  # of training audio; the others are whole
    assert 36 <= few["train"].seconds < 42 and len(few["test"].rows) == 10


def change(paths: dict[str, str], folder: Path, name: str, edit) -> dict[str, str]:
    lines = read(paths[name])
    (folder / "changed.json").write_text("\n".join(json.dumps(line) for line in map(edit, lines)))
    return paths | {name: str(folder / "changed.json")}


def single(manifest: str, folder: Path) -> str:
    (folder / "single.json").write_text(json.dumps(read(manifest)[0]))
    return str(folder / "single.json")


def test_bad_sets_are_refused(paths, tmp_path, opened):
    def refused(message: str, sets: dict[str, str], alignments=None, key="text"):
        with pytest.raises(ValueError, match=message):
            open_sets(sets, key, alignments, None, SAMPLE_RATE)

    refused(r"dev .*changed\.json.*'text'.*--alignments", change(paths, tmp_path, "dev", lambda x: _without(x, "text")))
    refused("'words'.*--key.*--alignments", paths, key="words")
    refused(r"\btest .*\['7', 'E'\]", change(paths, tmp_path, "test", lambda x: x | {"text": "7E"}))
    refused(r"\btrain .*changed\.json.*\bempty\b", change(paths, tmp_path, "train", lambda x: x | {"text": " "}))
    refused(r"\b30 .*\btest .*\btrain ", paths | {"test": paths["train"]})
    refused(r"\b8 .*\btest .*\bdev ", paths | {"test": paths["dev"]})
    refused(r"\b480 .*\bdev .*\btrain ", dict.fromkeys(paths, str(CORPUS / "train")))
    refused(r"\bdev .*single\.json has only one usable utterance\b", paths | {"dev": single(paths["dev"], tmp_path)})
    refused(
        r"spk031-test-00050\.opus.*offset",
        change(paths, tmp_path, "test", lambda x: x | {"offset": 0.1}),
        CTM | {"test": CTM["train"]},
    )
    refused(r"phones\.ctm.*\b60 .*spk028-test-", paths, CTM | {"test": CTM["dev"]})
    shutil.copy(paths["train"], tmp_path / "empty.json")
    (tmp_path / "empty.json").write_text("")
    refused(r"empty\.json", paths | {"dev": str(tmp_path / "empty.json")})
    with pytest.raises(FileNotFoundError):
        open_sets(paths | {"dev": "/none.json"}, "text", None, None, SAMPLE_RATE)
    both = [Representation(NemoEncoder(opened), [1, 2]), Representation(LogMel(opened), [1])]
    assert sum(one.values_per_frame for one in both) == 2 * 32 + 4 * 20
    with pytest.raises(ValueError, match="--hours"):
        check_memory(both, 1e10)


def _without(line: dict, key: str) -> dict:
    return {name: value for name, value in line.items() if name != key}


@pytest.mark.system
def test_probe_as_a_user(paths, tmp_path):
    make_model().save_to(str(tmp_path / "small.nemo"))
    sets = [part for name in paths for part in (f"--{name}", paths[name])]
    arguments = [str(tmp_path / "small.nemo"), *sets, "--epochs", "2", "--layers", "1,3", "--workers", "0"]
    printed = run("probe.py", *arguments)
    assert "Linear probes of a frozen encoder" in printed and "without input 100.0%" in printed
    rows = json.loads((tmp_path / "probe_ctc_small.json").read_text())["rows"]
    assert [row["representation"] for row in rows] == ["log-mel"] + 3 * ["untrained"] + 3 * ["pretrained"]
    assert (tmp_path / "probe_ctc_small.png").is_file()
