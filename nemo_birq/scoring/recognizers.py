"""Opening of recognizers from ``.nemo`` files."""

from pathlib import Path

import torch
from nemo.collections.asr.models import ASRModel, EncDecCTCModel, EncDecHybridRNNTCTCModel, EncDecRNNTModel
from nemo.utils.model_utils import import_class_by_path
from omegaconf import OmegaConf

from nemo_birq.checkpoint.nemo_archive import check_finite, opening, quiet_nemo, read_config


def check_recognizer(path: Path) -> type[ASRModel]:
    """Returns NeMo's class of the model from the configuration of the file, without loading weights.

    Raises:
        ValueError: the file holds no recognizer; otherwise as ``nemo_archive.read_config``.
    """
    target = read_config(path).target
    try:
        found = import_class_by_path(target)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{path} holds a {target}, which this version of NeMo does not have ({error}): use the version that wrote it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, EncDecCTCModel | EncDecRNNTModel)):
        raise ValueError(
            f"{path} holds a {target.rpartition('.')[2]}, which does not recognize speech: train a recognizer from it with "
            "birq finetune"
        )
    return found


def check_ctc(found: type[ASRModel]) -> None:
    """Raises ValueError if a class of recognizers has no CTC head."""
    if not issubclass(found, EncDecCTCModel | EncDecHybridRNNTCTCModel):
        raise ValueError(f"{found.__name__} has no CTC head, which the language model needs: remove --lm")


def find_context(path: Path, look_ahead: int) -> list[int]:
    """Returns the attention context with a look-ahead of a streaming encoder, from the configuration of the file.

    Args:
        path: ``.nemo`` of a recognizer.
        look_ahead: look-ahead in encoder frames.

    Raises:
        ValueError: the encoder was trained with other look-aheads, or with none.
    """
    sizes = OmegaConf.to_container(read_config(path).encoder).get("att_context_size") or [-1, -1]
    contexts = sizes if isinstance(sizes[0], list) else [sizes]
    for context in contexts:
        if context[1] == look_ahead:
            return context
    there = ", ".join(str(context[1]) for context in contexts)
    raise ValueError(
        f"look-ahead {look_ahead}: the encoder in {path} was trained with {there} (-1 is the whole utterance; "
        "encoder.att_context_size in its configuration): give one of these, or remove --look-ahead"
    )


def open_recognizer(path: Path, device: str) -> ASRModel:
    """Opens the model in evaluation mode; a CTC model decodes greedily, whatever its saved settings.

    Raises:
        ValueError, FileNotFoundError: as ``check_recognizer``.
    """
    check_recognizer(path)
    with opening(path), quiet_nemo():
        model = ASRModel.restore_from(str(path), map_location=torch.device(device)).eval()
    check_finite(model.state_dict(), path)
    if isinstance(model, EncDecCTCModel):
        model.change_decoding_strategy(OmegaConf.create({"strategy": "greedy_batch"}), verbose=False)
    return model


def use_ctc(model: ASRModel) -> None:
    """Sets a hybrid model to decode with its CTC head."""
    if isinstance(model, EncDecHybridRNNTCTCModel):
        model.change_decoding_strategy(decoder_type="ctc", verbose=False)
