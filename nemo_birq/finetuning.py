"""From a pretrained ``.nemo`` to NeMo's own speech recognizers."""

import json
from pathlib import Path

import torch
from nemo.collections.asr.metrics.wer import word_error_rate
from nemo.collections.asr.models import ASRModel
from nemo.core import ModelPT
from omegaconf import DictConfig, OmegaConf, open_dict

from nemo_birq.data.manifests import check_manifest_of_files


def check_test_manifest(manifest: str) -> list[dict]:
    """Lines of a test manifest, with transcripts.

    Raises:
        ValueError: a line without ``text``; else as ``manifests.check_manifest_of_files``.
    """
    lines = check_manifest_of_files(manifest)
    silent = [line["audio_filepath"] for line in lines if "text" not in line]
    if silent:
        raise ValueError(f"test manifest {manifest}: {silent[0]} has no text to compare with ({len(silent)} such lines)")
    return lines


def take_architecture(model_cfg: DictConfig, pretrained: str) -> None:
    """Copies preprocessor and encoder of a ``.nemo`` into the configuration of a recognizer.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not Path(pretrained).is_file():
        raise FileNotFoundError(f"pretrained={pretrained} does not exist; name the .nemo that pretraining ended with")
    source = ModelPT.restore_from(pretrained, return_config=True)
    with open_dict(model_cfg):
        model_cfg.preprocessor = source.preprocessor
        model_cfg.encoder = source.encoder
        model_cfg.decoder.feat_in = source.encoder.d_model
    OmegaConf.resolve(model_cfg.encoder)


def check_encoder(model: ASRModel, pretrained: str) -> int:
    """Number of encoder tensors, after comparing each with the file's: NeMo passes over mismatches in silence.

    Raises:
        ValueError: naming the tensors that were not taken over.
    """
    source = ModelPT.restore_from(pretrained, map_location=torch.device("cpu")).encoder.state_dict()
    found = model.encoder.state_dict()
    different = [
        name
        for name in source.keys() | found.keys()
        if name not in source or name not in found or not torch.equal(source[name], found[name].cpu())
    ]
    if different:
        raise ValueError(f"encoder tensors were not taken over from {pretrained}: {sorted(different)}")
    return len(source)


def score(model: ASRModel, manifest: str, batch_size: int = 16) -> dict:
    """Greedy transcription of a manifest of single files, and its error rates.

    Returns:
        ``wer`` and ``cer`` as fractions, and ``utterances``: name, text and hypothesis of each.
    """
    lines = check_test_manifest(manifest)
    paths = [str(Path(manifest).parent / line["audio_filepath"]) for line in lines]
    hypotheses = [result.text for result in model.transcribe(paths, batch_size=batch_size, verbose=False)]
    references = [line["text"] for line in lines]
    return {
        "manifest": manifest,
        "wer": word_error_rate(hypotheses, references),
        "cer": word_error_rate(hypotheses, references, use_cer=True),
        "utterances": [
            {"audio_filepath": line["audio_filepath"], "text": reference, "hypothesis": hypothesis}
            for line, reference, hypothesis in zip(lines, references, hypotheses, strict=True)
        ],
    }


def write_score(result: dict, path: Path) -> None:
    """Writes what ``score`` found as json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")
