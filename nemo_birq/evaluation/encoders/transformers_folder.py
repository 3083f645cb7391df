"""Speech encoders of Hugging Face transformers, from a folder of this machine.

The Wav2Vec2 family (also HuBERT and WavLM) computes its frames by convolutions of the signal with kernels K, strides s and
no padding. The middle of frame 0 thus lies at sample sum_i (K_i - 1) / 2 * prod_{j<i} s_j. Frame t of a ParakeetEncoder is
centred at mel frame S * t, as in NeMo.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nemo_birq.evaluation.encoders.protocol import Outputs
from nemo_birq.extraction.data import SpeechData
from nemo_birq.modules.frame_times import FrameTimes

CONFIG = "config.json"
TRIAL_SECONDS = 2.0


class TransformersEncoder:
    """Encoder of a folder with ``config.json``, weights and feature extractor; see ``protocol.LayeredEncoder``.

    The library is kept from the network, and no code of the folder is run. Each utterance is encoded by itself, because
    some of these encoders change the outputs of a padded utterance.

    Raises:
        ImportError: transformers is not installed.
        ValueError: the folder holds no such encoder, or weights are missing.
    """

    def __init__(self, folder: Path):
        self._extractor, model = _load(folder)
        # A model of an encoder and a head, such as ParakeetForCTC, for which AutoModel has no class without the head
        encoder = model.encoder if hasattr(model.config, "encoder_config") else model
        self._encoder: nn.Module = encoder.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        config = encoder.config
        self.kind = type(encoder).__name__
        self.sample_rate = int(self._extractor.sampling_rate)
        self.depth = int(config.num_hidden_layers)
        self.width = int(config.hidden_size)
        self.num_parameters = sum(parameter.numel() for parameter in encoder.parameters())
        self.device = next(encoder.parameters()).device
        self.times = _times(config, self._extractor, folder)
        self._check_frames(folder)

    def encode(self, signal: Tensor, lengths: Tensor, layers: Sequence[int]) -> Outputs:
        found = [self._encode_one(row[:length].cpu(), layers) for row, length in zip(signal, lengths.tolist(), strict=True)]
        counts = [len(outputs[0]) for outputs in found]
        padded = [nn.utils.rnn.pad_sequence([outputs[i] for outputs in found], batch_first=True) for i in range(len(layers))]
        return Outputs(padded, torch.tensor(counts))

    def check_longest(self, data: SpeechData, rows: Sequence[int]) -> None:
        """Accepts every length: one utterance at a time needs little memory."""

    def _encode_one(self, signal: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Computes the outputs of layers for a signal (samples,) on the host: (T', D) each."""
        inputs = self._extractor(signal.numpy(), sampling_rate=self.sample_rate, return_tensors="pt").to(self.device)
        output = self._encoder(**inputs, output_hidden_states=True)
        mask = getattr(output, "attention_mask", None)  # a ParakeetEncoder computes one frame more than the signal has
        count = output.last_hidden_state.shape[1] if mask is None else int(mask.sum())
        hidden = output.hidden_states[-self.depth :]  # without the input of the first layer
        return [hidden[layer - 1][0, :count] for layer in layers]

    @torch.inference_mode()
    def _check_frames(self, folder: Path) -> None:
        """Runs noise through the encoder, and compares the number of frames and layers with its configuration."""
        noise = torch.randn(int(TRIAL_SECONDS * self.sample_rate), generator=torch.Generator().manual_seed(0))
        inputs = self._extractor(noise.numpy(), sampling_rate=self.sample_rate, return_tensors="pt").to(self.device)
        output = self._encoder(**inputs, output_hidden_states=True)
        layers = len(output.hidden_states or ())
        frames = {hidden.shape[1] for hidden in output.hidden_states or ()}
        wrong = [count for count in frames if abs(count - TRIAL_SECONDS / self.times.step) > 2]
        if len(frames) != 1 or wrong or layers - self.depth not in (0, 1):
            given = f"{' or '.join(map(str, sorted(frames)))} frames and {layers} hidden states"
            raise ValueError(
                f"{folder}: {self.kind} gives {given} for {TRIAL_SECONDS:.0f} s; by its configuration, there are "
                f"{TRIAL_SECONDS / self.times.step:.0f} frames and {self.depth} layers. Give an encoder of the Wav2Vec2 "
                "family or a ParakeetEncoder"
            )


def _load(folder: Path) -> tuple[Any, Any]:
    """Loads the feature extractor and the model."""
    try:
        from transformers import AutoFeatureExtractor, AutoModel
        from transformers.utils import logging
    except ImportError as error:
        raise ImportError(f"{folder} needs transformers ({error}): pip install 'nemo_birq[export]'") from error
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}: give a folder that birq export or save_pretrained wrote")
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    given = {"local_files_only": True, "trust_remote_code": False}
    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder, **given)
        model, info = AutoModel.from_pretrained(folder, output_loading_info=True, **given)
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} cannot be opened by transformers: {' '.join(str(error).split())}") from error
    finally:
        logging.set_verbosity(verbosity)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(
            f"{folder} lacks {len(missing)} tensors of {type(model).__name__}, such as {missing[0]}: they would be random. "
            "Get the folder again"
        )
    return extractor, model


def _times(config: Any, extractor: Any, folder: Path) -> FrameTimes:
    rate = extractor.sampling_rate
    if hasattr(config, "conv_stride") and hasattr(config, "conv_kernel"):
        kernels, strides = config.conv_kernel, config.conv_stride
        first = sum((kernel - 1) / 2 * prod(strides[:i]) for i, kernel in enumerate(kernels))
        return FrameTimes(first / rate, prod(strides) / rate)
    if hasattr(config, "subsampling_factor") and hasattr(extractor, "hop_length"):
        return FrameTimes(0.0, config.subsampling_factor * extractor.hop_length / rate)
    raise ValueError(
        f"{folder}: the times of the frames of a {config.model_type} are not known. Give an encoder of the Wav2Vec2 "
        "(Wav2Vec2, HuBERT, WavLM) or a ParakeetEncoder"
    )
