"""Checks of preprocessor, encoder and prediction head: ranges of their values, and that they fit each other."""

from typing import Annotated, Any, Literal

from nemo.utils import logging
from omegaconf import DictConfig
from pydantic import Field

from nemo_birq.config import BiRQConfig
from nemo_birq.config_checks.nodes import check_class
from nemo_birq.utils.settings import (
    Count,
    Dropout,
    Flag,
    Node,
    Positive,
    Real,
    Share,
    Size,
    Text,
    Whole,
    read,
    refuse,
    shown,
)

Width = Annotated[Whole, Field(ge=1, le=65536)]
Subsampling = Literal[
    "striding", "dw_striding", "vggnet", "striding_conv1d", "dw_striding_conv1d", "stacking", "stacking_norm"
]
Context = Annotated[list[Annotated[Whole, Field(ge=-1)]], Field(min_length=2, max_length=2)]


class PreprocessorSettings(Node):
    """Arguments of NeMo's AudioToMelSpectrogramPreprocessor."""

    sample_rate: Annotated[Whole, Field(ge=1000, le=192000)] = 16000
    window_size: Annotated[Real, Field(gt=0, le=1)] | None = 0.02
    window_stride: Annotated[Real, Field(gt=0, le=1)] | None = 0.01
    n_window_size: Size | None = None
    n_window_stride: Size | None = None
    window: Literal["hann", "hamming", "blackman", "bartlett", "none"] | None = "hann"
    normalize: Literal["per_feature", "all_features", "NA"] | dict[str, Any] | None = "per_feature"
    n_fft: Annotated[Whole, Field(ge=2, le=65536)] | None = None
    preemph: Annotated[Real, Field(ge=0, lt=1)] | None = 0.97
    features: Annotated[Whole, Field(ge=1, le=1024)] = 64
    lowfreq: Annotated[Real, Field(ge=0)] = 0
    highfreq: Positive | None = None
    log: Flag = True
    log_zero_guard_type: Literal["add", "clamp"] = "add"
    log_zero_guard_value: Positive | Literal["tiny", "eps"] = 2**-24
    dither: Annotated[Real, Field(ge=0, le=1)] = 1e-5
    pad_to: Count = 16
    frame_splicing: Annotated[Whole, Field(ge=1, le=64)] = 1
    exact_pad: Flag = False
    pad_value: Real = 0
    mag_power: Positive = 2.0
    mel_norm: Text | Real | None = "slaney"


class EncoderSettings(Node):
    """Arguments of NeMo's ConformerEncoder."""

    feat_in: Width = 80
    n_layers: Annotated[Whole, Field(ge=1, le=1000)] = 1
    d_model: Width = 1
    feat_out: Annotated[Whole, Field(ge=-1, le=65536)] = -1
    subsampling: Subsampling | None = "striding"
    subsampling_factor: Annotated[Whole, Field(ge=1, le=64)] = 4
    subsampling_conv_channels: Annotated[Whole, Field(ge=-1, le=65536)] = -1
    subsampling_conv_chunking_factor: Annotated[Whole, Field(ge=-1)] = 1
    causal_downsampling: Flag = False
    ff_expansion_factor: Annotated[Whole, Field(ge=1, le=64)] = 4
    self_attention_model: Literal["rel_pos", "rel_pos_local_attn", "abs_pos"] = "rel_pos"
    n_heads: Annotated[Whole, Field(ge=1, le=1024)] = 4
    att_context_size: Annotated[
        Context | Annotated[list[Context], Field(min_length=1)] | None,
        Field(json_schema_extra={"allowed": "null, or [left, right] in frames with -1 for all, or a list of such pairs"}),
    ] = None
    att_context_style: Literal["regular", "chunked_limited", "chunked_limited_with_rc"] = "regular"
    att_context_probs: Annotated[list[Share], Field(min_length=1)] | None = None
    xscaling: Flag = True
    untie_biases: Flag = True
    pos_emb_max_len: Annotated[Whole, Field(ge=1, le=10**6)] = 5000
    conv_kernel_size: Annotated[Whole, Field(ge=1, le=10001)] = 31
    conv_norm_type: Annotated[
        Text,
        Field(
            pattern="^(batch_norm|instance_norm|layer_norm|fused_batch_norm|group_norm[1-9][0-9]*)$",
            json_schema_extra={
                "allowed": "batch_norm, layer_norm, instance_norm, fused_batch_norm, or group_normN such as group_norm8"
            },
        ),
    ] = "batch_norm"
    conv_context_size: Literal["causal"] | Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    conv_context_style: Literal["regular", "dcc"] = "regular"
    use_bias: Flag = True
    dropout: Dropout = 0.1
    dropout_pre_encoder: Dropout = 0.1
    dropout_emb: Dropout = 0.1
    dropout_att: Dropout = 0.0
    stochastic_depth_drop_prob: Dropout = 0.0
    stochastic_depth_mode: Literal["linear", "uniform"] = "linear"
    stochastic_depth_start_layer: Annotated[Whole, Field(ge=1)] = 1
    global_tokens: Count = 0
    global_tokens_spacing: Size = 1
    global_attn_separate: Flag = False
    use_pytorch_sdpa: Flag = False
    sync_max_audio_length: Flag = True


class HeadSettings(Node):
    """Arguments of NeMo's MultiSoftmaxDecoder; ``check_modules`` compares its sizes."""

    feat_in: Width = 1
    num_classes: Size = 1
    num_decoders: Size = 1
    use_bias: Flag = True


def check_preprocessor(node: dict[str, Any], sample_rate: int | None) -> PreprocessorSettings:
    """Checks ``model.preprocessor``.

    Args:
        node: the node, or the part of it that overrides the preprocessor of a file.
        sample_rate: sample rate of the model in Hz; None: that of the file.

    Raises:
        ValueError: a value out of range, or values that do not fit each other.
    """
    where = "model.preprocessor"
    settings = read(PreprocessorSettings, node, where)
    rate = settings.sample_rate
    if sample_rate is not None and rate != sample_rate:
        refuse(f"{where}.sample_rate", rate, f"{sample_rate}, the value of model.sample_rate")
    for seconds, samples in (("window_size", "n_window_size"), ("window_stride", "n_window_stride")):
        length, number = getattr(settings, seconds), getattr(settings, samples)
        if length is not None and number is not None:
            refuse(f"{where}.{samples}", number, f"null if {where}.{seconds}={length} is given")
        if length is None and number is None:
            refuse(f"{where}.{seconds}", None, f"a number of seconds if {where}.{samples} is null")
        if length is not None and int(length * rate) < 1:
            refuse(f"{where}.{seconds}", length, f"at least one sample at {rate} Hz, {1 / rate:g} s")
    window = settings.n_window_size or int(settings.window_size * rate)
    if settings.n_fft is not None and settings.n_fft < window:
        refuse(f"{where}.n_fft", settings.n_fft, f"at least {window}, the number of samples of a window")
    bins = (settings.n_fft or 1 << (window - 1).bit_length()) // 2 + 1
    if settings.features > bins:
        refuse(
            f"{where}.features",
            settings.features,
            f"at most {bins}, the number of frequencies of n_fft={shown(settings.n_fft)}",
        )
    highest = rate / 2 if settings.highfreq is None else settings.highfreq
    if highest > rate / 2:
        refuse(f"{where}.highfreq", node["highfreq"], f"at most {rate / 2:g}, half of the sample rate")
    if settings.lowfreq >= highest:
        refuse(f"{where}.lowfreq", node["lowfreq"], f"below {highest:g}, the highest frequency")
    return settings


def check_encoder(node: dict[str, Any]) -> EncoderSettings:
    """Checks ``model.encoder``, or the part of it that overrides the encoder of a file.

    Raises:
        ValueError: a value out of range, or values that do not fit each other.
    """
    where = "model.encoder"
    settings = read(EncoderSettings, node, where)
    if {"d_model", "n_heads"} <= node.keys() and settings.d_model % settings.n_heads:
        refuse(f"{where}.d_model", settings.d_model, f"a multiple of {where}.n_heads={settings.n_heads}")
    if settings.conv_kernel_size % 2 == 0:
        refuse(f"{where}.conv_kernel_size", settings.conv_kernel_size, "odd")
    if settings.subsampling_conv_channels == 0:
        refuse(f"{where}.subsampling_conv_channels", 0, "at least 1, or -1 for d_model")
    factor = settings.subsampling_factor
    if settings.subsampling is None and factor != 1 and "subsampling" in node:
        refuse(
            f"{where}.subsampling", None, f"a method of subsampling, because {where}.subsampling_factor={factor} is not 1"
        )
    if factor & (factor - 1) and not str(settings.subsampling).startswith("stacking"):
        refuse(f"{where}.subsampling_factor", factor, f"a power of 2 with {where}.subsampling={settings.subsampling}")
    if "n_layers" in node and settings.stochastic_depth_start_layer > settings.n_layers:
        allowed = f"at most {where}.n_layers={settings.n_layers}"
        refuse(f"{where}.stochastic_depth_start_layer", settings.stochastic_depth_start_layer, allowed)
    context, kernel = settings.conv_context_size, settings.conv_kernel_size
    if isinstance(context, list) and "conv_kernel_size" in node and sum(context) + 1 != kernel:
        refuse(f"{where}.conv_context_size", context, f"two numbers whose sum is {kernel - 1} (conv_kernel_size - 1)")
    _check_attention(settings, where)
    return settings


def _check_attention(settings: EncoderSettings, where: str) -> None:
    size, key = settings.att_context_size, f"{where}.att_context_size"
    if settings.self_attention_model == "rel_pos_local_attn" and (
        size is None or isinstance(size[0], list) or max(size) < 1
    ):
        refuse(key, size, f"two numbers of frames such as [200, 200] with {where}.self_attention_model=rel_pos_local_attn")
    contexts = [[-1, -1]] if size is None else size if isinstance(size[0], list) else [size]
    probs = settings.att_context_probs
    if probs is not None and (len(probs) != len(contexts) or sum(probs) != 1):  # NeMo compares the sum in the same way
        refuse(f"{where}.att_context_probs", probs, f"{len(contexts)} numbers, one for each of {key}, whose sum is 1")
    if settings.att_context_style != "chunked_limited" or size is None:
        return
    for left, right in contexts:
        if (right < 0 and len(contexts) == 1) or (left > 0 and left % (right + 1)):
            allowed = "[left, right] with right at least 0 and left a multiple of right + 1"
            refuse(key, size, f"{allowed} with {where}.att_context_style=chunked_limited")


def check_model_parts(model: dict[str, Any], birq: BiRQConfig) -> None:
    """Checks preprocessor, encoder and prediction head of ``model`` before they are built.

    Raises:
        ValueError: a class or argument does not exist, a value is out of range, or parts do not fit each other.
    """
    for part in ("preprocessor", "encoder"):
        check_class(model[part], f"model.{part}")
    features = check_preprocessor(model["preprocessor"], model["sample_rate"])
    encoder = check_encoder(model["encoder"])
    wanted = features.features * features.frame_splicing
    if encoder.feat_in != wanted:
        refuse("model.encoder.feat_in", encoder.feat_in, f"{wanted}, the number of features of model.preprocessor")
    check_head(model, birq)
    check_class(model["decoder"], "model.decoder")
    read(HeadSettings, model["decoder"], "model.decoder")


def check_modules(cfg: DictConfig, birq: BiRQConfig) -> None:
    """Checks that the modules of ``model`` fit each other, and warns if the features are not normalized.

    Raises:
        ValueError: the encoder has no layer k of its own width, or the head does not fit quantizer and encoder.
    """
    check_head(cfg, birq)
    if cfg.preprocessor.get("normalize") != "per_feature" and birq.anchor.normalization is None:
        logging.warning(
            f"model.preprocessor.normalize={cfg.preprocessor.get('normalize')}: the anchor labels of features that are not "
            "normalized per feature over time collapse onto few codes. Use per_feature; for a streaming encoder, whose "
            "input cannot be normalized over time, set model.birq.anchor.normalization=per_feature."
        )


def check_head(cfg: DictConfig | dict[str, Any], birq: BiRQConfig) -> None:
    """Checks that the sizes of the prediction head fit quantizer and encoder.

    Raises:
        ValueError: the sizes do not fit, or the encoder has no layer k of its own width.
    """
    encoder, head, quantizer = cfg["encoder"], cfg["decoder"], birq.quantizer
    for key, allowed in (("reduction", (None, False, "")), ("feat_out", (-1, encoder["d_model"]))):
        if key in encoder and encoder[key] not in allowed:
            raise ValueError(
                f"model.encoder.{key}={encoder[key]} is not supported: remove it. Layer k must have the encoder's width"
            )
    if not str(head.get("_target_")).endswith(".MultiSoftmaxDecoder"):
        raise ValueError(f"model.decoder._target_={head.get('_target_')} is not supported: use a MultiSoftmaxDecoder")
    sizes = {"num_classes": quantizer.num_codes, "num_decoders": quantizer.num_books, "feat_in": encoder["d_model"]}
    for key, needed in sizes.items():
        if head.get(key, 1) != needed:
            raise ValueError(f"model.decoder.{key}={head.get(key)} does not fit quantizer and encoder: set it to {needed}")
    widths = {"anchor": encoder["subsampling_factor"] * encoder["feat_in"], "labels": encoder["d_model"]}
    dims = {"anchor": quantizer.code_dim, "labels": birq.labels.code_dim or quantizer.code_dim}
    for part, width in widths.items():
        if getattr(birq, part).projection == "pca" and dims[part] > width:
            key = "labels.code_dim" if part == "labels" and birq.labels.code_dim else "quantizer.code_dim"
            needed = f"at most {width} with model.birq.{part}.projection=pca: the frames have no more components"
            refuse(f"model.birq.{key}", dims[part], needed)
