"""Conversion of the settings of a NeMo FastConformer to Hugging Face transformers.

``ParakeetEncoder`` of transformers 5 computes the same as NeMo's ``ConformerEncoder`` with ``dw_striding``, and
``ParakeetFeatureExtractor`` the same as NeMo's preprocessor. Both lack most options of NeMo's classes, so values that they
do not support are refused. No class of transformers has the full strided convolutions of NeMo's Conformer.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor, ConformerEncoder
from omegaconf import DictConfig, OmegaConf

from nemo_birq.pretrained.architecture import class_defaults
from nemo_birq.utils.settings import shown

if TYPE_CHECKING:
    from transformers import ParakeetEncoderConfig, ParakeetFeatureExtractor

ENCODER: dict[str, tuple] = {
    "subsampling": ("dw_striding",),
    "causal_downsampling": (False,),
    "reduction": (None,),
    "self_attention_model": ("rel_pos",),
    "att_context_size": ([-1, -1], None, [[-1, -1]]),
    "att_context_style": ("regular",),
    "att_chunk_context_size": (None,),
    "conv_norm_type": ("batch_norm",),
    "conv_context_style": ("regular",),
    "stochastic_depth_drop_prob": (0.0,),
}
"""Values of the encoder that ParakeetEncoder supports, the usual one first."""
PREPROCESSOR: dict[str, tuple] = {
    "window": ("hann",),
    "normalize": ("per_feature",),
    "lowfreq": (0,),
    "log": (True,),
    "log_zero_guard_type": ("add",),
    "log_zero_guard_value": (2**-24,),
    "frame_splicing": (1,),
    "exact_pad": (False,),
    "pad_value": (0,),
    "mag_power": (2.0,),
    "mel_norm": ("slaney",),
}
"""Values of the preprocessor that ParakeetFeatureExtractor supports, the usual one first."""


def check_settings(config: DictConfig, source: Path) -> None:
    """Checks that transformers supports the encoder and the preprocessor of a model.

    Raises:
        ValueError: a value is not supported; the message names all such keys and values.
    """
    nodes = OmegaConf.to_container(config, resolve=True)
    encoder = class_defaults(ConformerEncoder) | nodes["encoder"]
    preprocessor = class_defaults(AudioToMelSpectrogramPreprocessor) | nodes["preprocessor"]
    context = (encoder["conv_kernel_size"] - 1) // 2
    of_encoder = ENCODER | {
        "feat_out": (-1, encoder["d_model"]),
        "conv_context_size": (None, [context, context]),
    }
    of_preprocessor = PREPROCESSOR | {"highfreq": (None, preprocessor["sample_rate"] / 2)}
    lacking = [
        f"{node}.{key}={shown(values[key])} (supported: {shown(allowed[key][0])})"
        for node, values, allowed in (("encoder", encoder, of_encoder), ("preprocessor", preprocessor, of_preprocessor))
        for key in allowed
        if values[key] not in allowed[key]
    ]
    if preprocessor["features"] % encoder["subsampling_factor"]:
        lacking.append(
            f"preprocessor.features={preprocessor['features']} "
            f"(supported: multiples of encoder.subsampling_factor={encoder['subsampling_factor']})"
        )
    if lacking:
        raise ValueError(
            f"{source} cannot be exported to a folder: the ParakeetEncoder of transformers does not support "
            f"{', '.join(lacking)}. Write a .nemo, .onnx or .ts file instead"
        )


def encoder_config(model: SpeechEncDecSelfSupervisedModel) -> "ParakeetEncoderConfig":
    """Returns the configuration of the ParakeetEncoder that is equivalent to the encoder of a checked model."""
    from transformers import ParakeetEncoderConfig

    node = class_defaults(ConformerEncoder) | OmegaConf.to_container(model.cfg.encoder, resolve=True)
    channels = node["subsampling_conv_channels"]
    return ParakeetEncoderConfig(
        hidden_size=node["d_model"],
        num_hidden_layers=node["n_layers"],
        num_attention_heads=node["n_heads"],
        intermediate_size=node["d_model"] * node["ff_expansion_factor"],
        attention_bias=node["use_bias"],
        convolution_bias=node["use_bias"],
        conv_kernel_size=node["conv_kernel_size"],
        subsampling_factor=node["subsampling_factor"],
        subsampling_conv_channels=node["d_model"] if channels == -1 else channels,
        num_mel_bins=node["feat_in"],
        dropout=node["dropout_pre_encoder"],
        dropout_positions=node["dropout_emb"],
        activation_dropout=node["dropout"],
        attention_dropout=node["dropout_att"],
        layerdrop=0.0,
        max_position_embeddings=node["pos_emb_max_len"],
        scale_input=node["xscaling"],
    )


def feature_extractor(model: SpeechEncDecSelfSupervisedModel) -> "ParakeetFeatureExtractor":
    """Returns the feature extractor that is equivalent to the preprocessor of a checked model in evaluation mode."""
    from transformers import ParakeetFeatureExtractor

    featurizer = model.preprocessor.featurizer
    return ParakeetFeatureExtractor(
        feature_size=featurizer.nfilt,
        sampling_rate=featurizer.sample_rate,
        hop_length=featurizer.hop_length,
        n_fft=featurizer.n_fft,
        win_length=featurizer.win_length,
        preemphasis=featurizer.preemph,
    )
