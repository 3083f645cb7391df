"""The model as a whole: changes that do and do not affect its losses and labels."""

import pytest
import torch
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.collections.asr.modules.conformer_encoder import ConformerMultiLayerFeatureExtractor

from nemo_birq import BiRQModel
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.losses.bilevel import Weights
from nemo_birq.modules.masking import valid_frames
from nemo_birq.utils.rng import draw_seed
from tests.helpers.models import SAMPLE_RATE, generator, make_batch, make_config, make_model
from tests.helpers.paths import CORPUS

pytestmark = pytest.mark.unit

NO_DROPOUT = {f"encoder__{name}": 0.0 for name in ("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att")}
ENCODERS = {
    "conformer": {},
    "fastconformer": {
        "encoder__subsampling": "dw_striding",
        "encoder__subsampling_factor": 8,
        "birq__masking__start_probability": 0.05,
    },
    "layer_norm": {"encoder__conv_norm_type": "layer_norm"},
    "local_attention": {"encoder__self_attention_model": "rel_pos_local_attn", "encoder__att_context_size": [4, 4]},
    "causal": {"encoder__causal_downsampling": True, "encoder__conv_context_size": "causal"},
    "two_books": {"birq__quantizer__num_books": 2, "decoder__num_decoders": 2},
    "separate_heads": {"birq__loss__head": "separate"},
}


def losses(model, batch, seed=0):
    return model.losses(batch, Weights(0.7, 1.3), generator(seed), observe_labels=False, over_ranks=True)


@pytest.mark.parametrize("changes", ENCODERS.values(), ids=ENCODERS.keys())
def test_every_parameter_learns(changes, batch):
    model = make_model(**changes).train()
    loss, health, _ = losses(model, batch)
    assert len(health["anchor_labels"]) > 0 and torch.isfinite(loss)
    loss.backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == []
    # By nature without a gradient: a bias of the keys moves all scores of a query alike, one before batch normalization
    # is taken out by it.
    free = ("linear_k.bias", "depthwise_conv.bias")
    still = [n for n, p in model.named_parameters() if not p.grad.abs().max() > 1e-9 and not n.endswith(free)]
    assert still == []


def padded(batch: SpeechBatch, seconds: float) -> SpeechBatch:
    extra = torch.zeros(len(batch.signal), int(seconds * SAMPLE_RATE))
    return batch._replace(signal=torch.cat([batch.signal, extra], dim=1))


def fixed_mask(monkeypatch, model, batch):
    """Makes masks that depend only on the utterance, so that batches of other shapes can be compared."""
    lengths = [int(n) for n in batch.signal_length]

    def draw(frame_lengths, num_frames, _generator):
        mask = torch.zeros(len(frame_lengths), num_frames, dtype=torch.bool)
        for row, length in zip(mask, frame_lengths, strict=True):
            start = int(length) % 7
            row[start : min(int(length), start + 30)] = True
        return mask

    monkeypatch.setattr(model.masking, "draw", draw)
    monkeypatch.setattr(model.masking, "fill", lambda features, mask, _: features.masked_fill(mask.unsqueeze(1), 0.1))
    monkeypatch.setattr("nemo_birq.labels.enhanced.gumbel_noise", lambda like, _: torch.zeros_like(like))
    return lengths


@pytest.mark.parametrize("kind", ["per_feature", "whiten", "layer_norm"])
def test_more_padding_changes_nothing(monkeypatch, kind, batch):
    # Batch normalization sees padded frames, in stock NeMo too, so that only layer norm is exact in training.
    quiet = {f"encoder__{name}": 0.0 for name in ("dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att")}
    model = make_model(birq__labels__normalization=kind, encoder__conv_norm_type="layer_norm", **quiet).train()
    fixed_mask(monkeypatch, model, batch)
    one, two = losses(model, batch), losses(model, padded(batch, 1.7))
    assert float(one.loss) == pytest.approx(float(two.loss), abs=2e-5)
    assert torch.equal(one.health["anchor_labels"], two.health["anchor_labels"])
    assert torch.equal(one.health["found"].nearest, two.health["found"].nearest)


def test_labels_in_inference_ignore_padding_and_neighbours(batch):
    model = make_model().train()
    losses(model, batch)
    model.eval()
    together = model.extract_labels(padded(batch, 1.0).signal, batch.signal_length)
    for i, length in enumerate(batch.signal_length):
        alone = model.extract_labels(batch.signal[i : i + 1, :length], length[None])
        n = int(alone.lengths[0])
        assert torch.equal(together.anchor[i, :n], alone.anchor[0, :n])
        assert torch.equal(together.enhanced[i, :n], alone.enhanced[0, :n])
        assert (together.anchor[i, n:] == -1).all() and (together.enhanced[i, n:] == -1).all()


def test_permuted_utterances_have_permuted_labels(batch):
    model = make_model().train()
    losses(model, batch)
    model.eval()
    order = torch.tensor([2, 0, 1])
    plain = model.extract_labels(batch.signal, batch.signal_length)
    permuted = model.extract_labels(batch.signal[order], batch.signal_length[order])
    assert torch.equal(permuted.anchor, plain.anchor[order])
    assert torch.equal(permuted.enhanced, plain.enhanced[order])


@pytest.mark.parametrize("seconds", [(0.05,), (0.2,), (1.0,), (2.0, 0.1)])
def test_short_and_single_utterances_train(seconds):
    model = make_model().train()
    for seed in range(4):
        loss, _, _ = losses(model, make_batch(seconds), seed=seed)
        assert torch.isfinite(loss)
        loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_seed_repeats_masks_and_noise(batch):
    model = make_model().eval()
    assert float(losses(model, batch, seed=1).loss) == float(losses(model, batch, seed=1).loss)
    assert float(losses(model, batch, seed=1).loss) != float(losses(model, batch, seed=2).loss)


def test_batch_without_a_readable_utterance_teaches_nothing():
    model = make_model().train()
    loss, _, _ = losses(model, SpeechBatch(torch.zeros(1, SAMPLE_RATE), torch.tensor([SAMPLE_RATE]), [], 3))
    loss.backward()
    assert float(loss) == 0 and not any(p.grad.any() for p in model.parameters() if p.grad is not None)
    assert model.enhanced_labeler.normalization.num_updates == 0


def test_looking_at_labels_leaves_their_statistics(batch):
    model = make_model().train()
    normalization = model.enhanced_labeler.normalization
    seen = model.losses(batch, Weights(0.0, 1.0), generator(), observe_labels=True, over_ranks=True)
    assert seen.health["found"].picked is not None and normalization.num_updates == 0
    losses(model, batch)
    assert normalization.num_updates == 1


def test_bf16_autocast_keeps_labels_and_a_float32_loss(batch):
    model = make_model().eval()
    plain = losses(model, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = losses(model, batch)
    assert torch.equal(plain.health["anchor_labels"], mixed.health["anchor_labels"])
    assert mixed.loss.dtype == mixed.health["found"].enhanced.dtype == torch.float32
    assert float(mixed.loss) == pytest.approx(float(plain.loss), rel=0.02)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("birq__labels__layer", 4, r"labels\.layer=4\b.*1 to 3"),
        ("birq__labels__layer", 0, r"labels\.layer=0\b.*1 to 3"),
        ("birq__labels__layer", "last", "labels.layer"),
        ("birq__labels__temperature", 0, "temperature=0"),
        ("birq__labels__logit_scale", -1, "logit_scale"),
        ("birq__labels__label_gradient", -0.5, "label_gradient"),
        ("birq__labels__normalization", "batch_norm", "normalization"),
        ("birq__labels__statistics", "global", "statistics"),
        ("birq__labels__momentum", 1.0, "momentum"),
        ("birq__labels__codebook", "learned", "labels.codebook=learned"),
        ("birq__labels__code_dim", 8, r"labels\.code_dim=8\b.*labels\.codebook is tracked or kmeans"),
        ("birq__labels__codebook_momentum", 1.0, "labels.codebook_momentum=1.0"),
        ("birq__loss__enhanced_weight", -0.1, "enhanced_weight"),
        ("birq__loss__anchor_weight", -1, "anchor_weight"),
        ("birq__loss__start_step", -1, "start_step"),
        ("birq__loss__head", "both", "shared"),
        ("birq__quantizer__num_codes", 1, r"num_codes=1\b.*\b2\b"),
        ("birq__quantizer__num_books", 0, "num_books"),
        ("birq__masking__start_probability", 0, "start_probability"),
        ("birq__masking__start_probability", 1, "start_probability"),
        ("birq__masking__span_frames", 0, "span_frames"),
        ("birq__masking__span", 40, "span"),
        ("birq__labels__temperature", "warm", "temperature"),
        ("decoder__num_classes", 25, "num_classes=25"),
        ("decoder___target_", "nemo.collections.asr.modules.ConvASRDecoder", "MultiSoftmaxDecoder"),
        ("encoder__reduction", "pooling", "reduction"),
        ("encoder__feat_out", 16, "feat_out"),
    ],
)
def test_bad_values_are_refused_by_name(key, value, message):
    with pytest.raises(ValueError, match=message):
        make_model(**{key: value})


def test_both_weights_zero_are_refused():
    with pytest.raises(ValueError, match=r"enhanced.*anchor.*weight=\(0\.0, 0\.0\)"):
        make_model(birq__loss__enhanced_weight=0, birq__loss__anchor_weight=0)


def test_validation_from_tar_shards_holds_every_utterance_once():
    model = make_model()
    folder = CORPUS / "train"
    shards = {"manifest_filepath": f"{folder}/tarred_audio_manifest.json"}
    shards["tarred_audio_filepaths"] = f"{folder}/audio__OP_0..3_CL_.tar"
    model.setup_validation_data({"use_lhotse": True, "batch_duration": 60, **shards})
    for _ in range(2):
        names = [name for batch in model._validation_dl for name in batch.ids]
        assert len(names) == len(set(names)) == 480


def test_apex_optimizer_without_apex_says_what_to_do():
    model = make_model()
    with pytest.raises(ValueError, match=r"fused_adam.*docs/pretraining\.md"):
        model.setup_optimization({"name": "fused_adam", "lr": 1e-3})


def test_configuration_defaults_are_complete():
    config = make_config()
    del config["birq"]
    config.decoder.num_classes = 8192
    assert BiRQModel(config).layer == 2


def test_the_model_derives_from_the_stock_class_alone():
    assert BiRQModel.__bases__ == (SpeechEncDecSelfSupervisedModel,)


def test_forward_masks_in_training_mode_only(batch):
    model = make_model(**NO_DROPOUT).eval()
    inputs = {"input_signal": batch.signal, "input_signal_length": batch.signal_length}
    features, mask, encoded, lengths = model(**inputs, generator=generator(1))
    feature_lengths = model.preprocessor.featurizer.get_seq_len(batch.signal_length)
    expected, expected_lengths = model.encoder(audio_signal=features, length=feature_lengths)
    assert not mask.any() and torch.equal(encoded, expected) and torch.equal(lengths, expected_lengths)

    model.train()
    masked_features, mask, encoded, _ = model(**inputs, generator=generator(1))
    assert torch.equal(masked_features, features) and 0.05 < float(mask.mean()) < 0.8  # the features themselves stay
    draw = generator(1)
    drawn = model.masking.draw(feature_lengths, features.shape[2], draw)
    again, _ = model.masked_pass(features, feature_lengths, drawn, draw_seed(draw))
    assert torch.equal(mask[:, 0] > 0, drawn) and torch.equal(encoded, again) and not torch.equal(encoded, expected)


def test_extracted_features_are_those_of_nemos_extractor(batch):
    model = make_model().eval()
    features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    extractor = ConformerMultiLayerFeatureExtractor(model.encoder, include_final_output=False)
    with torch.no_grad():
        outputs, (encoded_len, *_) = extractor(audio_signal=features, length=lengths)
    for layer in (1, 2, 3, None):
        values, found = model.extract_features(batch.signal, batch.signal_length, layer)
        assert torch.equal(values, outputs[(layer or 3) - 1].transpose(1, 2)) and torch.equal(found, encoded_len)
    with pytest.raises(ValueError, match=r"layer=4\b.*1 to 3"):
        model.extract_features(batch.signal, batch.signal_length, 4)


def test_anchor_labels_do_not_depend_on_what_lies_in_the_padding(batch):
    model = make_model()
    features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    frames = torch.arange(len(lengths) * (features.shape[2] // 4))
    plain = model.anchor_labeler(features, lengths, frames, features.shape[2] // 4)
    outside = ~valid_frames(lengths, features.shape[2]).unsqueeze(1)
    spoiled = features.masked_fill(outside, 100.0)
    assert outside.any() and torch.equal(model.anchor_labeler(spoiled, lengths, frames, features.shape[2] // 4), plain)
