"""Input of the masked pass under noise."""

import torch
from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor
from torch import Tensor

from nemo_birq.data.batch import SpeechBatch
from nemo_birq.utils.rng import to_device


def noisy_features(preprocessor: AudioToMelSpectrogramPreprocessor, features: Tensor, batch: SpeechBatch) -> Tensor | None:
    """Computes the features of the masked pass, (B, F, T) like ``features``; None without noise.

    Only the mixed signals pass the preprocessor a second time.

    Args:
        preprocessor: mel spectrogram of NeMo.
        features: (B, F, T) features of the clean signals.
        batch: signals of B utterances.
    """
    if batch.noisy is None:
        return None
    rows = to_device(torch.tensor(batch.mixed), features.device)
    found, _ = preprocessor(input_signal=batch.noisy, length=batch.signal_length.index_select(0, rows))
    return features.index_copy(0, rows, found)
