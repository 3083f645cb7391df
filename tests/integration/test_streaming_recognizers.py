"""Recognizers with a pretrained streaming encoder: NeMo's cache-aware streaming hears what they hear offline."""

from pathlib import Path

import pytest
import torch
from nemo.collections.asr.models import ASRModel

from benchmarks.streamed_scores import stream
from nemo_birq.scoring.eval_sets import read_test_sets
from nemo_birq.scoring.scorer import Scorer
from nemo_birq.scoring.tables import describe_decoding
from nemo_birq.utils.progress import ProgressBars
from tests.helpers.finetuning import build, config
from tests.helpers.manifests import short_lines, write_manifest
from tests.helpers.models import STREAMING, make_batch, make_model, train

pytestmark = pytest.mark.integration

CONFIGS = ("ctc_char", "hybrid_rnnt_ctc_bpe")
CONTEXTS = STREAMING["encoder__att_context_size"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    model = make_model(**STREAMING)
    train(model, folder, steps=3)
    model.save_to(str(folder / "streaming.nemo"))
    return folder / "streaming.nemo"


@pytest.fixture(scope="module", params=CONFIGS)
def recognizer(request, pretrained, tmp_path_factory) -> Path:
    """Makes a recognizer that was trained for four steps."""
    folder = tmp_path_factory.mktemp(request.param)
    cfg = config(request.param, pretrained, folder, "trainer.max_steps=4", "+trainer.limit_val_batches=0")
    model, trainer = build(cfg)
    assert model.encoder.att_context_size_all == CONTEXTS and model.cfg.preprocessor.normalize == "NA"
    trainer.fit(model)
    model.save_to(str(folder / f"{request.param}.nemo"))
    return folder / f"{request.param}.nemo"


@pytest.mark.parametrize("context", CONTEXTS)
def test_streamed_and_offline_outputs_are_equal(recognizer, context):
    model = ASRModel.restore_from(str(recognizer), map_location="cpu").eval()
    model.encoder.set_default_att_context_size(context)
    # 256 feature frames and the one that NeMo's buffer counts beyond them: they fill the last encoder frame.
    batch = make_batch((2.56, 2.56))
    features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    offline, offline_len = model.encoder(audio_signal=features, length=lengths)
    found, texts = stream(model, list(batch.signal.numpy()))
    assert offline_len.tolist() == [65, 65] and found.shape == offline.shape
    torch.testing.assert_close(found, offline, atol=1e-4, rtol=1e-4)
    model.encoder.set_default_att_context_size(CONTEXTS[(CONTEXTS.index(context) + 1) % 3])
    other, _ = model.encoder(audio_signal=features, length=lengths)
    assert (other - offline).abs().max() > 1e-3  # chunks of another size give other outputs: the comparison can fail
    model.encoder.set_default_att_context_size(context)
    assert texts == [hypothesis.text for hypothesis in model.transcribe(list(batch.signal.numpy()), verbose=False)]


def test_a_score_has_its_look_ahead(recognizer, tmp_path):
    test = write_manifest(tmp_path / "test.json", short_lines(4))
    scored = {}
    for look_ahead in (None, 3, 0):
        run = Scorer(recognizer, tmp_path / "scores", ProgressBars(disable=True), look_ahead=look_ahead)
        (found,) = read_test_sets([str(test)])
        scored[look_ahead] = run.score(found, run.decoding())
        context = run._opened[0].encoder.att_context_size
        assert context == [8, 3 if look_ahead is None else look_ahead]
        assert run.existing_scores([found], run.decoding())["test"] is not None
    names = sorted(path.name.removeprefix(f"{recognizer.stem}_test_greedy") for path in (tmp_path / "scores").glob("*.json"))
    assert names == [".json", "_look_ahead_0.json", "_look_ahead_3.json"]
    assert describe_decoding(scored[0]).endswith("look-ahead of 0 frames") and "look" not in describe_decoding(scored[None])
    with pytest.raises(ValueError, match=r"look-ahead 2: the encoder in .*\.nemo was trained with 3, 1, 0 .*remove"):
        Scorer(recognizer, tmp_path / "scores", ProgressBars(disable=True), look_ahead=2)
