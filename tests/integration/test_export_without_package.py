"""Exported files work without nemo_birq: one process, which cannot import it, runs all of this."""

import subprocess
import sys
import textwrap

import pytest
import torch

from nemo_birq.export.bare_encoder import strip, write_nemo
from tests.helpers.models import FAST, trained_model
from tests.helpers.paths import CORPUS

STOCK = '''
    import sys
    sys.modules["nemo_birq"] = None  # importing it raises ImportError from here on
    import logging; logging.getLogger("nv_one_logger").setLevel(logging.ERROR)
    import copy, os, re
    from pathlib import Path
    import lightning.pytorch as pl
    import torch
    from nemo.core import ModelPT
    from nemo.collections.asr.models import EncDecCTCModelBPE, EncDecRNNTBPEModel, SpeechEncDecSelfSupervisedModel
    from nemo.collections.asr.modules import ConformerMultiLayerFeatureExtractor
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
    from omegaconf import OmegaConf
    work, manifest = sys.argv[1:]
    os.chdir(work)
    Path("text.txt").write_text("one two three four\\nfive six seven eight\\nnine ten red green blue\\n" * 20)
    create_spt_model("text.txt", vocab_size=40, sample_size=-1, do_lower_case=True, output_dir="tok", tokenizer_type="bpe")

    def same(found, expected):
        assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
        different = [name for name in found if not torch.equal(found[name], expected[name])]
        assert not different, different

    def recognizer(kind, source):
        cfg = {
            "sample_rate": 16000, "preprocessor": source.preprocessor, "encoder": source.encoder,
            "tokenizer": {"dir": "tok", "type": "bpe"},
            "train_ds": {"manifest_filepath": manifest, "sample_rate": 16000, "batch_size": 4, "shuffle": False,
                         "num_workers": 0},
            "optim": {"name": "adamw", "lr": 1e-3},
        }
        if kind is EncDecCTCModelBPE:
            cfg["decoder"] = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "feat_in": 32, "num_classes": -1,
                              "vocabulary": []}
        else:
            cfg |= {
                "labels": [],
                "model_defaults": {"enc_hidden": 32, "pred_hidden": 16, "joint_hidden": 16},
                "decoder": {"_target_": "nemo.collections.asr.modules.RNNTDecoder", "normalization_mode": None,
                            "random_state_sampling": False, "blank_as_pad": True,
                            "prednet": {"pred_hidden": 16, "pred_rnn_layers": 1}},
                "joint": {"_target_": "nemo.collections.asr.modules.RNNTJoint", "log_softmax": None,
                          "preserve_memory": False, "fuse_loss_wer": False,
                          "jointnet": {"joint_hidden": 16, "activation": "relu", "encoder_hidden": 32, "pred_hidden": 16}},
                "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 2}},
                "loss": {"loss_name": "pytorch"},
            }
        return kind(OmegaConf.create(cfg))

    def fine_tune(model):
        """Two steps of NeMo's own training; gives the loss."""
        trainer = pl.Trainer(accelerator="cpu", max_steps=2, limit_val_batches=0, logger=False, enable_checkpointing=False,
                             enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1)
        model.set_trainer(trainer)
        model.setup_training_data(model.cfg.train_ds)
        trainer.fit(model)
        return trainer.callback_metrics["train_loss"]

    for kind in ("conformer", "fast"):
        expected = torch.load(f"{kind}_expected.pt", weights_only=True)
        encoder = {k[len("encoder."):]: v for k, v in expected["state"].items() if k.startswith("encoder.")}
        for path in (f"{kind}.nemo", f"bare_{kind}/{kind}.nemo"):
            bare = path.startswith("bare")
            model = ModelPT.restore_from(path, strict=True, map_location="cpu").eval()
            assert type(model) is SpeechEncDecSelfSupervisedModel, type(model)
            same({k: v for k, v in model.state_dict().items()},
                 {k: v for k, v in expected["state"].items() if not bare or k.startswith(("encoder.", "preprocessor."))})
            with torch.inference_mode():
                features, lengths = model.preprocessor(input_signal=expected["signal"], length=expected["lengths"])
                found, _ = model.encoder(audio_signal=features, length=lengths)
                assert (found - expected["encoded"]).abs().max() <= 1e-5
                extractor = ConformerMultiLayerFeatureExtractor(
                    model.encoder, layer_idx_list=[0, 1, 2], include_final_output=False
                )
                layers, _ = extractor(audio_signal=features, length=lengths)
                assert len(layers) == 3
                for one, other in zip(layers, expected["layers"]):
                    assert (one - other).abs().max() <= 1e-5
            for recognizer_class in (EncDecCTCModelBPE, EncDecRNNTBPEModel):
                for form in (path, {"ssl": {"path": path, "include": ["encoder"]}}):
                    asr = recognizer(recognizer_class, model.cfg)
                    before = copy.deepcopy(asr.state_dict())
                    asr.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": form}))
                    same(asr.encoder.state_dict(), encoder)
                    assert not torch.equal(asr.encoder.state_dict()["layers.0.norm_out.weight"],
                                           before["encoder.layers.0.norm_out.weight"])
                    new = {k: v for k, v in asr.state_dict().items() if not k.startswith(("encoder.", "preprocessor."))}
                    same(new, {k: before[k] for k in new})  # the recognizer's own parts are untouched
        os.chdir(f"bare_{kind}")
        snippets = re.findall(r"```python\\n(.*?)```", Path("README.md").read_text(), re.S)
        assert len(snippets) == 3
        scope = {}
        for snippet in snippets:
            exec(snippet, scope)
        os.chdir("..")
        same(scope["recognizer"].encoder.state_dict(), encoder)
    ctc = recognizer(EncDecCTCModelBPE, model.cfg)
    ctc.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": path}))
    for initialized in (asr, ctc):
        assert torch.isfinite(fine_tune(initialized)), type(initialized)
        trained = initialized.encoder.state_dict()["layers.0.norm_out.weight"]
        assert not torch.equal(trained, encoder["layers.0.norm_out.weight"])
    assert not any(name.startswith("nemo_birq.") for name in sys.modules)
    print("stock NeMo did it all")
'''


def save(kind: str, folder, batch, **changes) -> None:
    """Saves a trained model and its bare encoder; returns the values that any NeMo must find in both."""
    model = trained_model(birq__loss__head="separate", **changes).eval()
    model.save_to(str(folder / f"{kind}.nemo"))
    (folder / f"bare_{kind}").mkdir()
    write_nemo(strip(folder / f"{kind}.nemo").model, folder / f"bare_{kind}" / f"{kind}.nemo")
    layers = []
    hooks = [
        layer.register_forward_hook(lambda _, __, out: layers.append(out.transpose(1, 2))) for layer in model.encoder.layers
    ]
    with torch.no_grad():
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        encoded, _ = model.encoder(audio_signal=features, length=lengths)
    for hook in hooks:
        hook.remove()
    expected = {"state": model.state_dict(), "signal": batch.signal, "lengths": batch.signal_length}
    torch.save(expected | {"encoded": encoded.clone(), "layers": layers}, folder / f"{kind}_expected.pt")


@pytest.mark.integration
def test_stock_nemo_restores_fine_tunes_and_extracts_without_this_package(tmp_path, batch):
    save("conformer", tmp_path, batch)
    save("fast", tmp_path, batch, **FAST)
    script = tmp_path / "stock.py"
    script.write_text(textwrap.dedent(STOCK))
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(tmp_path), f"{CORPUS}/validation/validation.json"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert "stock NeMo did it all" in done.stdout, done.stderr[-3000:]
