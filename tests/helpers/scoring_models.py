"""Small recognizers with random weights, and language models, for the tests of decoding."""

from pathlib import Path

import torch
from nemo.collections.asr.models import EncDecCTCModel, EncDecCTCModelBPE, EncDecHybridRNNTCTCModel, EncDecRNNTModel
from nemo.collections.common.tokenizers.sentencepiece_tokenizer import create_spt_model
from omegaconf import OmegaConf

from nemo_birq.scoring.ngram_estimation import estimate, write_arpa
from tests.helpers.models import BASE, SAMPLE_RATE

LABELS = [" ", *"abcdefghijklmnopqrstuvwxyz", "'"]


def make_ctc(labels: list[str] = LABELS) -> EncDecCTCModel:
    torch.manual_seed(0)
    decoder = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": BASE.encoder.d_model,
        "num_classes": len(labels),
        "vocabulary": labels,
    }
    config = {"preprocessor": BASE.preprocessor, "encoder": BASE.encoder, "decoder": decoder}
    return EncDecCTCModel(OmegaConf.create({"sample_rate": SAMPLE_RATE, "labels": labels} | config)).eval()


def make_bpe_ctc(folder: Path, texts: list[str], vocabulary: int) -> EncDecCTCModelBPE:
    """Makes a recognizer whose word pieces are learned from the texts."""
    (folder / "texts.txt").write_text("\n".join(texts))
    create_spt_model(str(folder / "texts.txt"), vocabulary, sample_size=-1, do_lower_case=False, output_dir=str(folder))
    torch.manual_seed(0)
    decoder = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": BASE.encoder.d_model,
        "num_classes": -1,
        "vocabulary": [],
    }
    config = {"preprocessor": BASE.preprocessor, "encoder": BASE.encoder, "decoder": decoder}
    tokenizer = {"dir": str(folder), "type": "bpe"}
    return EncDecCTCModelBPE(OmegaConf.create({"sample_rate": SAMPLE_RATE, "tokenizer": tokenizer} | config)).eval()


def write_words(path: Path, sentences: list[str], order: int = 2) -> Path:
    """Writes a language model of words."""
    write_arpa(estimate([sentence.split() for sentence in sentences], order), path)
    return path


def write_tokens(path: Path, sentences: list[list[int]], order: int = 3) -> Path:
    """Writes a language model of tokens in NeMo's form."""
    write_arpa(estimate([[chr(100 + token) for token in sentence] for sentence in sentences], order), path)
    return path


def certain(path: list[dict[int, float]], size: int) -> torch.Tensor:
    """Makes log probabilities, (T', size), with the given probabilities and very small ones elsewhere."""
    probabilities = torch.full((len(path), size), 1e-6)
    for row, given in zip(probabilities, path, strict=True):
        for token, probability in given.items():
            row[token] = probability
    return probabilities.log()


def make_rnnt() -> EncDecRNNTModel:
    torch.manual_seed(0)
    return EncDecRNNTModel(OmegaConf.create(_rnnt_config())).eval()


def make_hybrid() -> EncDecHybridRNNTCTCModel:
    torch.manual_seed(0)
    head = {
        "_target_": "nemo.collections.asr.modules.ConvASRDecoder",
        "feat_in": BASE.encoder.d_model,
        "num_classes": len(LABELS),
        "vocabulary": LABELS,
    }
    aux_ctc = {"ctc_loss_weight": 0.3, "decoder": head, "decoding": {"strategy": "greedy_batch"}}
    return EncDecHybridRNNTCTCModel(OmegaConf.create(_rnnt_config() | {"aux_ctc": aux_ctc})).eval()


def _rnnt_config() -> dict:
    width = {"enc_hidden": BASE.encoder.d_model, "pred_hidden": 16}
    return {
        "sample_rate": SAMPLE_RATE,
        "labels": LABELS,
        "model_defaults": width,
        "preprocessor": BASE.preprocessor,
        "encoder": BASE.encoder,
        "decoder": {
            "_target_": "nemo.collections.asr.modules.RNNTDecoder",
            "prednet": {"pred_hidden": 16, "pred_rnn_layers": 1},
            "vocab_size": len(LABELS),
        },
        "joint": {
            "_target_": "nemo.collections.asr.modules.RNNTJoint",
            "jointnet": {
                "encoder_hidden": BASE.encoder.d_model,
                "pred_hidden": 16,
                "joint_hidden": 16,
                "activation": "relu",
            },
            "num_classes": len(LABELS),
            "vocabulary": LABELS,
        },
        "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 2}},
        "loss": {"loss_name": "pytorch"},
    }
