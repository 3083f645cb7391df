"""Labels, mask and predictions at masked frames of one utterance."""

from typing import NamedTuple

import numpy as np
import torch
from lhotse.supervision import AlignmentItem

from nemo_birq.evaluation.label_quality.utterances import NamedSpeech
from nemo_birq.extraction.memory import check_longest
from nemo_birq.model import BiRQModel
from nemo_birq.modules.frame_times import FrameTimes, anchor_times, encoder_times, mel_times
from nemo_birq.utils.rng import draw_seed


class LabelTrack(NamedTuple):
    """Labels of one kind, and predictions at masked frames."""

    name: str
    times: FrameTimes
    labels: np.ndarray
    """(T',) int64, of the first codebook."""
    predictions: np.ndarray
    """(T',) int64, of the first codebook; -1 at frames that are not masked."""

    @property
    def right(self) -> int:
        """Counts the masked frames with a correct prediction."""
        return int((self.labels == self.predictions).sum())

    @property
    def masked(self) -> int:
        return int((self.predictions >= 0).sum())


class UtteranceView(NamedTuple):
    """Data of the picture; T mel frames, F mel bins, T' encoder frames."""

    name: str
    text: str
    seconds: float
    features: np.ndarray
    """(F, T) float32, normalized log-mel, not masked."""
    frequencies: np.ndarray
    """(F,) centres of the mel bins, in Hz."""
    mask: np.ndarray
    """(T,) bool."""
    mel: FrameTimes
    anchor: LabelTrack
    enhanced: LabelTrack
    phones: list[AlignmentItem]
    words: list[AlignmentItem]
    seed: int


@torch.no_grad()
def view_utterance(
    model: BiRQModel, speech: NamedSpeech, name: str, phones: list[AlignmentItem], words: list[AlignmentItem], seed: int
) -> UtteranceView:
    """Runs both passes over an utterance.

    Args:
        model: model in evaluation mode.
        speech: utterances.
        name: name of one of them.
        phones, words: its alignment, if any.
        seed: seed of mask and noise.

    Raises:
        ValueError: the audio cannot be read, or is too long for the memory.
    """
    line = speech.lines[name]
    check_longest(model, speech.data, [speech.rows[name]])
    (batch,) = speech.choose([name]).load(model.cfg.sample_rate)
    if batch.is_silent_stand_in:
        raise ValueError(f"{line['audio_filepath']} cannot be read; see the reason in the warning above")
    signal, length = batch.signal.to(model.device), batch.signal_length.to(model.device)
    features, lengths = model.preprocessor(input_signal=signal, length=length)
    generator = torch.Generator().manual_seed(seed)
    mask = model.masking.draw(lengths.cpu(), features.shape[2], generator)
    encoded, encoded_len = model.masked_pass(features, lengths, mask, draw_seed(generator))
    frames = model.masked_frames(mask, encoded.shape[2]).to(encoded.device)
    labels = model.extract_labels(signal, length)
    count = int(encoded_len[0])

    def track(title: str, task: str, times: FrameTimes, codes: torch.Tensor) -> LabelTrack:
        predictions = torch.full((encoded.shape[2],), -1, device=encoded.device)
        predictions[frames] = model.head(task)(encoder_output=encoded)[0, frames, :, 0].argmax(dim=1)
        return LabelTrack(title, times, codes[0, :count, 0].cpu().numpy(), predictions[:count].cpu().numpy())

    front_end = model.preprocessor.featurizer
    return UtteranceView(
        name=name,
        text=line.get("text", ""),
        seconds=float(length[0]) / model.cfg.sample_rate,
        features=features[0, :, : int(lengths[0])].float().cpu().numpy(),
        frequencies=front_end.fb[0].argmax(dim=1).cpu().numpy() * front_end.sample_rate / front_end.n_fft,
        mask=mask[0, : int(lengths[0])].numpy(),
        mel=mel_times(model),
        anchor=track("anchor labels", "anchor", anchor_times(model), labels.anchor),
        enhanced=track(
            f"enhanced labels\n(layer {model.layer})", "enhanced", encoder_times(model), labels.enhanced,
        ),
        phones=phones,
        words=words,
        seed=seed,
    )  # fmt: skip
