"""Export of the encoder as a folder for Hugging Face transformers, and comparison with NeMo.

Files: ``config.json`` and ``model.safetensors`` of a ``ParakeetEncoder``, ``preprocessor_config.json`` of a
``ParakeetFeatureExtractor``, and the model card.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from torch import Tensor

from nemo_birq.checkpoint.model_card import build_card
from nemo_birq.export.output_files import README
from nemo_birq.export.runtime_files import TOLERANCE, largest_deviation
from nemo_birq.export.transformers_settings import encoder_config, feature_extractor
from nemo_birq.modules.masking import valid_frames
from nemo_birq.utils.files import complete_folder

if TYPE_CHECKING:
    from transformers import ParakeetEncoder, ParakeetFeatureExtractor

NAMES = (
    ("pre_encode.conv.", "subsampling.layers."),
    ("pre_encode.out.", "subsampling.linear."),
    (".self_attn.linear_q.", ".self_attn.q_proj."),
    (".self_attn.linear_k.", ".self_attn.k_proj."),
    (".self_attn.linear_v.", ".self_attn.v_proj."),
    (".self_attn.linear_out.", ".self_attn.o_proj."),
    (".self_attn.linear_pos.", ".self_attn.relative_k_proj."),
    (".self_attn.pos_bias_", ".self_attn.bias_"),
    (".conv.batch_norm.", ".conv.norm."),
)
"""Parts of tensor names that differ between NeMo and transformers."""
SECONDS = (2.0, 1.37, 0.7)
"""Lengths in seconds of the noise clips with which the features are compared."""


class Deviation(NamedTuple):
    """Largest absolute differences between NeMo and transformers at frames that are not padding."""

    features: float
    outputs: float
    """Largest difference of the encoder outputs with the same features."""


def write_folder(model: SpeechEncDecSelfSupervisedModel, out: Path) -> Deviation:
    """Writes a bare model in evaluation mode, whose settings have been checked, as a folder for transformers.

    Returns:
        The differences from NeMo.

    Raises:
        ImportError: transformers is too old.
        ValueError: features or outputs differ from NeMo's by more than ``TOLERANCE``.
    """
    try:
        from transformers.utils import logging

        encoder, extractor = convert(model), feature_extractor(model)
    except ImportError as error:
        raise ImportError(f"a folder needs transformers 5 ({error}): pip install 'nemo_birq[export]'") from error
    deviation = Deviation(feature_deviation(model, extractor), output_deviation(model, encoder))
    for what, size in deviation._asdict().items():
        if not size <= TOLERANCE:
            raise ValueError(f"{out}: its {what} differ from NeMo's by up to {size:.1e}: write a .nemo instead")
    logging.disable_progress_bar()  # the progress bar of a single shard
    with complete_folder(out) as folder:
        encoder.save_pretrained(folder)
        extractor.save_pretrained(folder)
        build_card(model, out.resolve().name, library="transformers").save(folder / README)
        (folder / "model.safetensors").chmod(
            (folder / "config.json").stat().st_mode
        )  # safetensors makes it readable only for the owner
    return deviation


def convert(model: SpeechEncDecSelfSupervisedModel) -> "ParakeetEncoder":
    """Returns the encoder of a checked model as a ParakeetEncoder in evaluation mode."""
    from transformers import ParakeetEncoder

    encoder = ParakeetEncoder(encoder_config(model)).eval()
    encoder.load_state_dict({_renamed(name): tensor for name, tensor in model.encoder.state_dict().items()}, strict=True)
    return encoder


@torch.inference_mode()
def feature_deviation(model: SpeechEncDecSelfSupervisedModel, extractor: "ParakeetFeatureExtractor") -> float:
    """Computes the largest difference of the features for noise.

    Raises:
        ValueError: a length differs.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([int(seconds * extractor.sampling_rate) for seconds in SECONDS])
    signal = 0.1 * torch.randn(len(lengths), int(lengths.max()), generator=generator)
    expected, frames = model.preprocessor(input_signal=signal, length=lengths)
    found = extractor(
        [row[:length].numpy() for row, length in zip(signal, lengths, strict=True)],
        sampling_rate=extractor.sampling_rate, return_tensors="pt",
    )  # fmt: skip
    if not torch.equal(found.attention_mask.sum(1), frames):
        raise ValueError(
            f"the features of {lengths.tolist()} samples have {found.attention_mask.sum(1).tolist()} frames instead of "
            f"{frames.tolist()}: write a .nemo instead"
        )
    width = found.input_features.shape[1]
    different = (found.input_features - expected[:, :, :width].transpose(1, 2)).abs()
    return float(different[found.attention_mask].max())


def output_deviation(model: SpeechEncDecSelfSupervisedModel, encoder: "ParakeetEncoder") -> float:
    """Computes the largest difference of the encoders' outputs; see ``largest_deviation``."""

    def run(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        mask = valid_frames(lengths, features.shape[2])
        # Unlike NeMo, ParakeetEncoder does not mask its input. The features of the extractor are zero at padded frames.
        found = encoder(input_features=features.transpose(1, 2) * mask.unsqueeze(2), attention_mask=mask)
        return found.last_hidden_state.transpose(1, 2), found.attention_mask.sum(1)

    return largest_deviation(model.encoder, run, padding=False)


def _renamed(name: str) -> str:
    for ours, theirs in NAMES:
        name = name.replace(ours, theirs)
    return name
