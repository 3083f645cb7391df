"""Export of the encoder as ONNX or TorchScript with NeMo's ``Exportable``, and comparison with PyTorch.

Both take features, not audio: ``audio_signal`` (B, F, T) float32, the log-mel features of the model's preprocessor, and
``length`` (B,) int64 in feature frames; both return ``outputs`` (B, D, T') and ``encoded_lengths`` (B,). B and T are
dynamic. The file describes the features, as ONNX metadata or as the extra file ``encoder.json`` of a TorchScript archive,
because neither format supports the Fourier transform of NeMo's preprocessor well.
"""

import json
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.collections.asr.modules import ConformerEncoder
from omegaconf import OmegaConf
from torch import Tensor

from nemo_birq.modules.masking import valid_frames
from nemo_birq.utils.files import complete_files

EXTRA_FILE = "encoder.json"
ONNX_LIMIT = 2 * 1024**3  # largest size of a protobuf message in bytes
LENGTHS = ([256], [300, 211, 37], [2003, 64], [64, 64, 64, 13])
"""Batches for the comparison, as lengths in feature frames; the first utterance of a batch is the longest."""
TOLERANCE = 1e-4
"""Largest difference that rounding explains. The last layer normalizes the outputs to about 1."""

Run = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def write_runtime_file(model: SpeechEncDecSelfSupervisedModel, out: Path) -> float | None:
    """Writes the encoder of a model in evaluation mode as ``.onnx``, ``.ts`` or ``.pt`` (TorchScript).

    Returns:
        The largest deviation from PyTorch; None for ONNX if onnxruntime is not installed.

    Raises:
        ImportError: the package onnx is not installed.
        ValueError: the encoder is too large for an ONNX file, or the outputs differ from PyTorch's.
    """
    onnx = _import_onnx() if out.suffix == ".onnx" else None
    encoder = _traceable(model)
    weights = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    if onnx and weights > ONNX_LIMIT:
        raise ValueError(f"an encoder of {weights / 1e9:.1f} GB does not fit into one ONNX file: write TorchScript (.ts)")
    about = describe(model)
    with complete_files(out.parent) as folder:
        path = folder / out.name
        encoder.export(str(path))
        if onnx:
            graph = onnx.load(path)
            onnx.helper.set_model_props(graph, {key: json.dumps(value) for key, value in about.items()})
            onnx.save(graph, path)
        else:
            torch.jit.save(torch.jit.load(path), path, _extra_files={EXTRA_FILE: json.dumps(about)})
            _forget_source_files(path)
        if onnx and find_spec("onnxruntime") is None:
            return None
        deviation = largest_deviation(model.encoder, open_runtime_file(path))
        if deviation > TOLERANCE:
            raise ValueError(f"{out}: its outputs differ from PyTorch's by up to {deviation:.1e}: write a .nemo instead")
    return deviation


def _forget_source_files(path: Path) -> None:
    """Removes the paths of the traced Python files, which include the home folder, from a TorchScript archive."""
    whole = path.with_name(f"{path.name}.whole")
    path.rename(whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for member in source.infolist():
            if not member.filename.endswith(".debug_pkl"):
                target.writestr(member, source.read(member))
    whole.unlink()


def _import_onnx() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise ImportError(f"an .onnx file needs the package onnx ({error}): pip install 'nemo_birq[export]'") from error
    return onnx


def _traceable(model: SpeechEncDecSelfSupervisedModel) -> ConformerEncoder:
    """Returns the encoder; for local attention, one with the same weights that masks frames outside of the window.

    Tracing fixes the chunks of ``rel_pos_local_attn`` to the length of the example. ``rel_pos`` with the same
    ``att_context_size`` computes the same numbers, but needs memory for all pairs of frames.
    """
    node = OmegaConf.to_container(model.cfg.encoder, resolve=True)
    if node.get("self_attention_model") != "rel_pos_local_attn":
        return model.encoder
    encoder = model.from_config_dict(OmegaConf.create(node | {"self_attention_model": "rel_pos"}))
    encoder.load_state_dict(model.encoder.state_dict(), strict=True)
    return encoder.eval()


def describe(model: SpeechEncDecSelfSupervisedModel) -> dict[str, Any]:
    """Describes the input features and the outputs for programs that use the file."""
    preprocessor, encoder = OmegaConf.to_container(model.cfg.preprocessor, resolve=True), model.cfg.encoder
    seconds = preprocessor["window_stride"] * encoder.subsampling_factor
    return {
        "preprocessor": preprocessor,
        "d_model": encoder.d_model,
        "n_layers": encoder.n_layers,
        "seconds_per_output_frame": round(seconds, 6),
        # The table of relative positions is part of the graph, and does not grow as in PyTorch.
        "longest_input_seconds": round(seconds * model.encoder.pos_emb_max_len, 3),
    }


def open_runtime_file(path: Path) -> Run:
    """Opens an exported encoder as a function of features (B, F, T) and lengths (B,), on the CPU."""
    if path.suffix != ".onnx":
        return torch.jit.load(path)
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        outputs = session.run(None, {"audio_signal": features.numpy(), "length": lengths.numpy()})
        return tuple(map(torch.from_numpy, outputs))

    return run


@torch.inference_mode()
def largest_deviation(
    encoder: ConformerEncoder, run: Run, batches: tuple[list[int], ...] = LENGTHS, padding: bool = True
) -> float:
    """Computes the largest absolute difference between ``encoder`` and ``run`` over batches of noise.

    Args:
        encoder: NeMo encoder.
        run: function with the same inputs and outputs.
        batches: lengths as in ``LENGTHS``.
        padding: also compare the outputs at padded frames.

    Raises:
        ValueError: a length differs.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for batch in batches:
        features = torch.randn(len(batch), encoder._feat_in, max(batch), generator=generator)
        lengths = torch.tensor(batch)
        expected, expected_lengths = encoder(audio_signal=features, length=lengths)
        found, found_lengths = run(features, lengths)
        if found.shape != expected.shape or not torch.equal(found_lengths, expected_lengths):
            raise ValueError(
                f"the outputs for lengths {batch} have the shape {tuple(found.shape)} instead of {tuple(expected.shape)}: "
                "write a .nemo instead"
            )
        different = (found - expected).abs()
        if not padding:
            different = different.transpose(1, 2)[valid_frames(found_lengths, found.shape[2])]
        largest = max(largest, float(different.max()))
    return largest
