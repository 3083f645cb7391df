"""Measures the labels of a user's data with the initial model, before training.

Shapes: B utterances, T feature frames, T' encoder frames, N frames, H codebooks, V codes, d code dimension.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils.data import DataLoader

from nemo_birq.data.bandwidth import find_bandwidth, in_words
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.length_limits import LeftOut, find_left_out_of_loader
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.statistics import CodeUse, histogram
from nemo_birq.labels.tracked_codebook import CodebookTracking
from nemo_birq.model import BiRQModel
from nemo_birq.modules.masking import positions, valid_frames
from nemo_birq.monitoring.alarm_rules import (
    LoggedStep,
    Rule,
    collapsed_labels,
    degenerate_features,
    masked_share,
    noise_labels,
    silence,
    unreadable_data,
)
from nemo_birq.monitoring.training_log import is_silent, num_read
from nemo_birq.utils.progress import ProgressBars

SCALES = (1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 40.0, 60.0, 80.0, 120.0, 160.0, 320.0)
LEAST_STABILITY = 0.9  # of the anchor labels; 98 % are equal for read speech, a quarter for telephone speech at 16 kHz
DITHER = 1e-5  # amplitude in NeMo's configurations; without dither, rounding noise would determine the labels
TRACKED_FRAMES = 1000  # frames of a batch that update tracked codes
SAMPLED_FRAMES = 2048  # for the curves, whose error is below 0.01 with as many frames
GATE: tuple[Rule, ...] = (silence, degenerate_features, masked_share, noise_labels, collapsed_labels)


@dataclass
class Selection:
    """Statistics of Gumbel-softmax over frames at each ``logit_scale``."""

    agreement: list[float]
    """Share of frames whose picked code is the nearest one."""
    codes: list[float]
    """Effective number of codes: exp of the entropy of softmax(logit_scale * C u)."""

    def at(self, scale: float) -> float:
        """Returns the agreement at any scale, interpolated between the measured ones."""
        return float(np.interp(math.log(scale), np.log(SCALES), self.agreement))

    def suggestion(self, agreement: float) -> float:
        """Returns the scale with a given agreement, rounded to two digits."""
        scale = math.exp(np.interp(agreement, self.agreement, np.log(SCALES)))
        return float(f"{scale:.2g}")


@dataclass
class Preflight:
    """Measurements of the labels."""

    minutes: float
    frames: int
    silent_share: float
    skipped: int
    skipped_share: float
    masked_fraction: float
    labels: dict[str, CodeUse]
    """Code statistics of the anchor labels as configured, with and without per-feature normalization, and of layer k."""
    selection: dict[str, Selection]
    """Statistics on layer k of this data, and on random unit vectors."""
    logit_scale: float
    """The configured scale; with ``auto``, the one for this data."""
    nearest_share: float
    """Agreement at the suggested scale."""
    left_out: list[LeftOut]
    """Utterances that the limits of length leave out."""
    bandwidths: dict[float, float]
    """Seconds of audio by bandwidth in Hz."""
    stability: float
    """Share of the anchor labels that are equal between two draws of the dither."""

    def failures(self, model: BiRQModel) -> list[str]:
        """Returns the reasons why training should not begin; empty if it may."""
        anchor, enhanced = self.labels["anchor"], self.labels["layer k"]
        metrics = {
            "silent_share": self.silent_share,
            "skipped_utterances": self.skipped,
            "masked_fraction": self.masked_fraction,
            "anchor_normalized_entropy": anchor.normalized_entropy,
            "anchor_perplexity": anchor.perplexity,
            "anchor_top1": anchor.top1,
        }
        if model.schedule.full.enhanced > 0:
            metrics |= {
                "enhanced_weight": model.schedule.full.enhanced,
                "enhanced_normalized_entropy": enhanced.normalized_entropy,
                "enhanced_perplexity": enhanced.perplexity,
                "selection_agreement": self.selection["layer k"].at(self.logit_scale),
            }
        violations = [unreadable_data(model.cfg, "train_ds", self.skipped, self.skipped_share)]
        violations += [rule(LoggedStep(1, metrics, model.birq, None)) for rule in GATE]
        lengths = [entry.in_words("model.train_ds.") for entry in self.left_out if entry.is_too_much]
        found = lengths + [violation.message for violation in violations if violation is not None]
        return found + ([self.unstable_labels(model)] if self.stability < LEAST_STABILITY else [])

    def narrow_band(self, model: BiRQModel) -> str | None:
        """Returns a warning about narrow-band audio for the features of the model; None if its share is small."""
        front_end = model.cfg.preprocessor
        return in_words(self.bandwidths, front_end.get("highfreq") or front_end.sample_rate / 2)

    def unstable_labels(self, model: BiRQModel) -> str:
        reason = self.narrow_band(model) or "the audio is hardly louder than the dither, so listen to some of it"
        return (
            f"only {self.stability:.0%} of the anchor labels are equal between two draws of the dither (99 % are usual). "
            f"The others are noise and cannot be learned: {reason}"
        )


class _Tally:
    """Counts over batches that the initial model labels in training mode."""

    def __init__(self, model: BiRQModel):
        self.model = model
        self.generator = torch.Generator().manual_seed(0)
        self.preprocessors = {
            name: model.from_config_dict(OmegaConf.merge(model.cfg.preprocessor, {"normalize": normalize})).to(model.device)
            for name, normalize in (("anchor, per_feature", "per_feature"), ("anchor, not normalized", None))
        }
        shape = model.birq.quantizer.num_books, model.birq.quantizer.num_codes
        names = ("anchor", *self.preprocessors, "layer k")
        self.counts = {name: torch.zeros(*shape, device=model.device) for name in names}
        dither = {"dither": max(DITHER, model.cfg.preprocessor.get("dither", 0.0))}
        self.dithered = model.from_config_dict(OmegaConf.merge(model.cfg.preprocessor, dither)).to(model.device)
        self.equal, self.bandwidths = 0, Counter()
        self.units: list[Tensor] = []
        self.seconds, self.frames, self.masked, self.utterances, self.silent, self.skipped = 0.0, 0, 0, 0, 0, 0

    def add(self, batch: SpeechBatch) -> None:
        model = self.model
        self.skipped += batch.skipped
        if num_read(batch) == 0:
            return
        signal, signal_length = batch.signal.to(model.device), batch.signal_length.to(model.device)
        features, lengths = model.preprocessor(input_signal=signal, length=signal_length)
        hidden, encoded_len = model.label_pass(features, lengths)
        valid = valid_frames(encoded_len, hidden.shape[1])
        frames = positions(valid)
        self._count("anchor", model.anchor_labeler(features, lengths, frames, valid.shape[1]))
        for name, preprocessor in self.preprocessors.items():
            changed, _ = preprocessor(input_signal=signal, length=signal_length)
            self._count(name, model.anchor_labeler(changed, lengths, frames, valid.shape[1]))
        self._count_equal(signal, signal_length, frames, valid.shape[1])
        rate = model.cfg.preprocessor.sample_rate
        for row, length in zip(batch.signal.cpu(), batch.lengths_on_host.tolist(), strict=True):
            if bandwidth := find_bandwidth(row[:length].numpy(), rate):
                self.bandwidths[bandwidth] += length / rate
        normalized = model.enhanced_labeler.normalization(hidden, valid, frames, update=False)
        self.units.append(model.enhanced_labeler.quantizer.unit_vectors(normalized).cpu())
        mask = model.masking.draw(lengths.cpu(), features.shape[2], self.generator)
        self.masked += len(model.masked_frames(mask, valid.shape[1]))
        self.frames += int(valid.sum())
        self.silent += int(is_silent(signal, signal_length).sum())
        self.utterances += num_read(batch)
        self.seconds += float(signal_length.sum()) / model.cfg.preprocessor.sample_rate

    def _count_equal(self, signal: Tensor, signal_length: Tensor, frames: Tensor, num_frames: int) -> None:
        """Counts the frames that get the same anchor labels from two draws of the dither."""
        draws = []
        with torch.random.fork_rng():
            for seed in (0, 1):
                torch.manual_seed(seed)
                features, lengths = self.dithered(input_signal=signal.clone(), length=signal_length)  # it changes its input
                draws.append(self.model.anchor_labeler(features, lengths, frames, num_frames))
        self.equal += int((draws[0] == draws[1]).all(dim=-1).sum())

    def _count(self, name: str, labels: Tensor) -> None:
        self.counts[name] += histogram(labels, self.counts[name].shape[1])

    def _trained_quantizer(self, units: Tensor) -> RandomProjectionQuantizer:
        """Returns the codes that training will use; tracked codes are first updated with the units (N, H, d)."""
        labeler = self.model.enhanced_labeler
        codebook = labeler.quantizer.codebook.cpu().clone()
        # Its projection is not used, because the units are already projected.
        quantizer = RandomProjectionQuantizer(units.new_zeros(len(codebook), 1, codebook.shape[2]), codebook)
        if labeler.tracking is not None:
            tracking = CodebookTracking(*codebook.shape, labeler.tracking.momentum)
            for batch in units[torch.randperm(len(units), generator=self.generator)].split(TRACKED_FRAMES):
                tracking.update(quantizer.codebook, batch, quantizer.nearest_of_units(batch), self.generator)
        return quantizer

    def result(self, left_out: list[LeftOut]) -> Preflight:
        units = torch.cat(self.units)
        quantizer = self._trained_quantizer(units)
        self._count("layer k", quantizer.nearest_of_units(units).to(self.model.device))
        sample = units[torch.randperm(len(units), generator=torch.Generator().manual_seed(0))[:SAMPLED_FRAMES]]
        random = F.normalize(torch.randn(sample.shape, generator=torch.Generator().manual_seed(1)), dim=-1)
        labels, here = self.model.birq.labels, selection(sample, quantizer.codebook)
        scale = here.suggestion(labels.nearest_share) if labels.logit_scale == "auto" else labels.logit_scale
        return Preflight(
            minutes=self.seconds / 60,
            frames=self.frames,
            silent_share=self.silent / self.utterances,
            skipped=self.skipped,
            skipped_share=self.skipped / (self.utterances + self.skipped),
            masked_fraction=self.masked / max(1, self.frames),
            labels={name: CodeUse.of(count) for name, count in self.counts.items()},
            selection={"layer k": here, "random": selection(random, quantizer.codebook)},
            logit_scale=scale,
            nearest_share=labels.nearest_share,
            left_out=left_out,
            bandwidths=dict(self.bandwidths),
            stability=self.equal / max(1, self.frames),
        )


@torch.no_grad()
def measure(model: BiRQModel, batches: Collection[SpeechBatch] | DataLoader, minutes: float) -> Preflight:
    """Labels a sample of the data with the initial model, without changing it.

    Args:
        model: untrained model.
        batches: batches of the training data; an endless loader is read once.
        minutes: minutes of audio to measure; at least one batch is used.

    Raises:
        ValueError: there is no batch, or no utterance can be read.
    """
    model.train()
    tally = _Tally(model)
    with ProgressBars(transient=True) as progress:
        advance = progress.start("labelling", 60 * minutes)
        for batch in islice(batches, len(batches)):
            before = tally.seconds
            tally.add(SpeechBatch(*batch))
            advance(tally.seconds - before)
            if tally.seconds >= 60 * minutes:
                break
    if tally.utterances == 0 and tally.skipped > 0:
        raise ValueError(f"none of {tally.skipped} utterances can be read: the log names each of them with the reason")
    if tally.utterances == 0:
        raise ValueError("the data loader of model.train_ds yields no batch: check min_duration and max_duration")
    return tally.result(find_left_out_of_loader(batches))


def selection(units: Tensor, codebook: Tensor) -> Selection:
    """Computes the exact statistics at ``SCALES``; the pick follows softmax(logit_scale * C u) at any temperature.

    Args:
        units: (N, H, d) unit vectors.
        codebook: (H, V, d).
    """
    scores = torch.einsum("nhd,hvd->nhv", units, codebook)
    result = Selection([], [])
    for scale in SCALES:
        share = (scale * scores).softmax(dim=-1)
        result.agreement.append(float(share.amax(dim=-1).mean()))
        result.codes.append(float(torch.special.entr(share).sum(dim=-1).mean().exp()))
    return result
