"""Conformer encoders of NeMo, trained and untrained, and their log-mel input as an encoder with one layer.

Shapes: S subsampling factor, F mel bins; others as in ``protocol``.
"""

from collections.abc import Sequence

import torch
from lightning.pytorch.utilities.seed import isolate_rng
from nemo.collections.asr.modules import ConformerEncoder
from torch import Tensor

from nemo_birq.evaluation.encoders.protocol import Outputs
from nemo_birq.extraction.data import SpeechData
from nemo_birq.extraction.memory import check_longest
from nemo_birq.labels.anchor import stack_frames
from nemo_birq.loading import LoadedEncoder
from nemo_birq.modules.frame_times import encoder_times, leading_frames
from nemo_birq.modules.layer_pass import encode_to_layers, encoder_lengths


class NemoEncoder:
    """Encoder of a NeMo model; see ``protocol.LayeredEncoder``.

    Args:
        opened: model.
        encoder: encoder of the same configuration to run in place of the model's own.
    """

    def __init__(self, opened: LoadedEncoder, encoder: ConformerEncoder | None = None):
        self.opened = opened
        self.encoder = encoder or opened.encoder
        self.kind = type(opened.model).__name__
        self.sample_rate = opened.sample_rate
        self.depth = opened.depth
        self.width = self.encoder.d_model
        self.num_parameters = sum(parameter.numel() for parameter in self.encoder.parameters())
        self.times = encoder_times(opened.model)
        self.device = next(self.encoder.parameters()).device

    @classmethod
    def untrained(cls, opened: LoadedEncoder, seed: int = 0) -> "NemoEncoder":
        """Makes an encoder of the same configuration with new random weights."""
        with isolate_rng():
            torch.manual_seed(seed)
            encoder = ConformerEncoder.from_config_dict(opened.model.cfg.encoder)
        return cls(opened, encoder.eval().to(next(opened.encoder.parameters()).device))

    def encode(self, signal: Tensor, lengths: Tensor, layers: Sequence[int]) -> Outputs:
        features, feature_lengths = self.opened.preprocessor(input_signal=signal, length=lengths)
        outputs, encoded_len = encode_to_layers(self.encoder, features, feature_lengths, layers)
        return Outputs([outputs[layer] for layer in layers], encoded_len)

    def check_longest(self, data: SpeechData, rows: Sequence[int]) -> None:
        check_longest(self.opened.model, data, rows)


class LogMel(NemoEncoder):
    """Input of a NeMo encoder, S mel frames stacked for each encoder frame: one layer of width S * F."""

    def __init__(self, opened: LoadedEncoder):
        super().__init__(opened)
        self.depth = 1
        self.width = self.encoder.subsampling_factor * opened.model.cfg.preprocessor.features
        self.num_parameters = 0

    def encode(self, signal: Tensor, lengths: Tensor, layers: Sequence[int]) -> Outputs:
        features, feature_lengths = self.opened.preprocessor(input_signal=signal, length=lengths)
        encoded_len = encoder_lengths(self.encoder, features, feature_lengths)
        stacked = stack_frames(features, self.encoder.subsampling_factor, leading_frames(self.encoder))
        missing = max(0, int(encoded_len.max()) - stacked.shape[1])
        return Outputs([torch.nn.functional.pad(stacked, (0, 0, 0, missing))], encoded_len)
