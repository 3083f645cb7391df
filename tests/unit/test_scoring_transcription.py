"""From a .nemo and manifests to scores: NeMo's transcripts in order, and input that is refused before work starts."""

import pytest
import soundfile
from nemo.collections.asr.models import EncDecRNNTModel

from nemo_birq.scoring.beam_search import open_beam_search
from nemo_birq.scoring.eval_sets import check_test_manifest, read_test_sets
from nemo_birq.scoring.recognizers import check_ctc, check_recognizer, open_recognizer, use_ctc
from nemo_birq.scoring.results import score
from nemo_birq.scoring.transcription import outputs, transcribe
from tests.helpers.manifests import short_lines, write_manifest
from tests.helpers.models import make_model
from tests.helpers.scoring_models import make_ctc, make_hybrid, make_rnnt, write_tokens

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def ctc():
    return make_ctc()


@pytest.fixture(scope="module")
def files(ctc, tmp_path_factory):
    """A recognizer's .nemo and a test set of 24 utterances with a speaker each."""
    folder = tmp_path_factory.mktemp("recognizer")
    ctc.save_to(str(folder / "small.nemo"))
    write_manifest(folder / "test.json", short_lines(24))
    return folder


@pytest.mark.parametrize("make", [make_ctc, make_rnnt])
def test_transcripts_are_those_of_nemo_in_the_order_of_the_manifest(make, tmp_path):
    model = make()
    lines = short_lines(10)
    paths = [line["audio_filepath"] for line in lines]
    wanted = [hypothesis.text for hypothesis in model.transcribe(paths, batch_size=1, verbose=False)]
    done = []
    found = transcribe(model, tmp_path / "test.json", lines, 4, None, done.append)
    assert found == wanted and len(set(wanted)) > 5
    assert done == [4, 4, 2]
    result = score(model, write_manifest(tmp_path / "test.json", lines), batch_size=4)
    assert [utterance["hypothesis"] for utterance in result["utterances"]] == wanted
    assert [utterance["text"] for utterance in result["utterances"]] == [line["text"] for line in lines]


def test_beam_search_through_a_model_is_that_over_its_outputs(ctc, tmp_path):
    lines = short_lines(6)
    search = open_beam_search(write_tokens(tmp_path / "tokens.arpa", [[1, 2, 3], [4, 5]]), ctc)
    found = outputs(ctc, tmp_path / "test.json", lines, 4, lambda done: None)
    assert [output.shape[1] for output in found] == [29] * 6
    assert all(abs(output.exp().sum(-1) - 1).max() < 1e-4 for output in found)
    seconds = [line["duration"] for line in lines]
    assert [len(output) for output in found] == pytest.approx([25 * duration for duration in seconds], abs=2)
    wanted = [search.decode([output])[0] for output in found]
    assert transcribe(ctc, tmp_path / "test.json", lines, 4, search, lambda done: None) == wanted


def test_a_part_of_a_file_is_that_part(ctc, tmp_path):
    """Manifests of AMI name parts of meetings by offset and duration; ``transcribe`` of a path would use the whole file."""
    line = short_lines(1)[0]
    signal, rate = soundfile.read(line["audio_filepath"])
    soundfile.write(tmp_path / "part.wav", signal[rate // 2 : rate // 2 + rate], rate, subtype="FLOAT")
    soundfile.write(tmp_path / "whole.wav", signal, rate, subtype="FLOAT")
    lines = [
        {"audio_filepath": "part.wav", "duration": 1.0},
        {"audio_filepath": "whole.wav", "offset": 0.5, "duration": 1.0},
        {"audio_filepath": "whole.wav", "duration": line["duration"]},
    ]
    part, cut, whole = transcribe(ctc, tmp_path / "test.json", lines, 4, None, lambda done: None)
    assert part == cut != whole


def test_characters_that_the_model_cannot_write_are_named(ctc, tmp_path):
    lines = short_lines(2)
    lines[0]["text"] = "caf\u00e9 at 5"
    found = score(ctc, write_manifest(tmp_path / "test.json", lines))
    assert found["unwritable"] == {"\u00e9": 1, "5": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ([], r"test\.json(?!.*\d).*\bempty\b"),
        ([{"text": None}], r"test\.json.*spk030-test-00000\.opus.*\btext\b"),
        ([{"text": " "}], r"test\.json.*\btext\b.*\b1 lines\b"),
        ([{"audio_filepath": "none.wav"}], r"test\.json.*none\.wav"),
        ([{"duration": -1}], r"test\.json.*\bline 1\b.*duration=-1\b"),
    ],
)
def test_test_sets_that_cannot_be_scored(tmp_path, change, message):
    path = write_manifest(tmp_path / "test.json", [short_lines(1)[0] | spoiled for spoiled in change])
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_test_manifest(path)


def test_names_of_test_sets(tmp_path):
    for folder in ("ihm", "sdm"):
        (tmp_path / folder).mkdir()
        write_manifest(tmp_path / folder / "test.json", short_lines(1))
    paths = [str(tmp_path / folder / "test.json") for folder in ("ihm", "sdm")]
    with pytest.raises(ValueError, match=r"first=\S*ihm/test\.json second=\S*sdm/test\.json"):
        read_test_sets(paths)
    named = read_test_sets([f"ihm={paths[0]}", f"sdm={paths[1]}"])
    assert [test.name for test in named] == ["ihm", "sdm"]


def test_files_that_are_no_recognizer(files, tmp_path):
    make_model().save_to(str(tmp_path / "pretrained.nemo"))
    with pytest.raises(ValueError, match=r"pretrained\.nemo.*SpeechEncDecSelfSupervisedModel.*birq finetune"):
        check_recognizer(tmp_path / "pretrained.nemo")
    (tmp_path / "cut.nemo").write_bytes((files / "small.nemo").read_bytes()[:20000])
    with pytest.raises(ValueError, match=r"cut\.nemo"):
        open_recognizer(tmp_path / "cut.nemo", "cpu")
    with pytest.raises(ValueError, match=r"EncDecRNNTModel\b.*\bCTC\b.*--lm\b"):
        check_ctc(EncDecRNNTModel)


def test_a_hybrid_model_takes_its_ctc_head_for_the_language_model(tmp_path):
    model = make_hybrid()
    lines = short_lines(3)
    transducer = transcribe(model, tmp_path / "test.json", lines, 4, None, lambda done: None)
    use_ctc(model)
    search = open_beam_search(write_tokens(tmp_path / "tokens.arpa", [[1, 2, 3], [4, 5]]), model)
    search.set_weights(0, 0)
    fused = transcribe(model, tmp_path / "test.json", lines, 4, search, lambda done: None)
    greedy = transcribe(model, tmp_path / "test.json", lines, 4, None, lambda done: None)
    assert all(len(text) > 5 for text in fused) and fused != transducer and greedy != transducer
