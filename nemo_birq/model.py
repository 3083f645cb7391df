"""The BiRQ model: wires NeMo's preprocessor, Conformer encoder and prediction head to the labelers and the bilevel loss.

One batch, from the shard to the optimizer step:

    data/factory.py           tar shard -> SpeechBatch
    preprocessor (NeMo)       signal -> normalized log-mel features                      B, F, T
    masking.py                features -> masked features
    layer_pass.py             the label pass: unmasked features, layers 1..k             B, T', D
    enhanced_labeler.py       h^(k) -> what enhanced labels at masked frames follow from N, H, d
    encoder (NeMo)            the masked pass, all L layers                              B, T', D
    anchor_labeler.py         features -> anchor labels at masked frames                 N, H
    bilevel_loss.py           w1 F + w2 G
    fused_cross_entropy.py    heads, enhanced labels, F and G, a chunk of frames at a time

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, D width, N masked frames, H codebooks, V codes.
"""

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.collections.asr.modules import MultiSoftmaxDecoder
from nemo.core.classes.common import PretrainedModelInfo, typecheck
from nemo.core.neural_types import AudioSignal, LengthsType, NeuralType
from nemo.utils import model_utils
from omegaconf import DictConfig, open_dict
from torch import Tensor

from nemo_birq.checkpoint.artifacts import CardFile, LabelFiles, Relabelling
from nemo_birq.checkpoint.stock_config import refuse_bare_encoder, with_stock_nodes
from nemo_birq.config import check_modules, parse
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.trainer_hooks import check_trainer, with_schedule_length
from nemo_birq.labels import tensors as label_tensors
from nemo_birq.labels.enhanced import EnhancedTargets, build_enhanced_labeler
from nemo_birq.labels.quantizer import RandomProjectionQuantizer
from nemo_birq.labels.teacher import find_teacher
from nemo_birq.losses.bilevel import BilevelLoss, Weights, WeightSchedule
from nemo_birq.modules.layer_pass import encode_to_layer, resolve_layer
from nemo_birq.modules.masking import SpanMasking, positions, valid_frames
from nemo_birq.monitoring.callback import TrainingSteps
from nemo_birq.utils.rng import to_device


class Losses(NamedTuple):
    """Result of one batch."""

    loss: Tensor
    """Scalar w1 F + w2 G of this rank, to be averaged over ranks."""
    health: dict[str, Any]
    """Arguments of ``LabelHealth.update``."""
    terms: dict[str, Any]
    """Arguments of ``BilevelLoss``, with their graph."""


class Labels(NamedTuple):
    """Labels of whole utterances, without masking or noise; -1 in the padding."""

    anchor: Tensor
    """(B, T', H) int64."""
    enhanced: Tensor
    """(B, T', H) int64, the nearest codes."""
    lengths: Tensor
    """(B,) int64, in encoder frames."""


class BiRQModel(TrainingSteps, LabelFiles, Relabelling, CardFile, SpeechEncDecSelfSupervisedModel):
    """Self-supervised pretraining with anchor and enhanced labels (arXiv 2509.15430); w1 = 0 is BEST-RQ.

    Args:
        cfg: ``model`` node of a configuration in conf/; ``cfg.birq`` is described in ``config.BiRQConfig``.
        trainer: Lightning trainer.

    Raises:
        ValueError: a key of ``cfg.birq`` out of range, an encoder without a layer k, a manifest or shards that do not
            fit: all before the first step.
    """

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = model_utils.convert_model_config_to_dict_config(cfg)
        refuse_bare_encoder(cfg)
        self.birq = birq = parse(cfg.get("birq"))
        check_modules(cfg, birq)
        self.teacher = find_teacher(cfg, birq)
        self.layer = resolve_layer(birq.labels.layer, cfg.encoder.n_layers)
        with open_dict(cfg):
            cfg.birq = asdict(birq)  # files carry every value, also those that are defaults today
        super().__init__(cfg=with_stock_nodes(cfg, birq.loss.head == "separate"), trainer=trainer)

        tensors = self._label_tensors()
        self.masking = SpanMasking(**vars(birq.masking))
        self.anchor_labeler = self.make_anchor_labeler(
            RandomProjectionQuantizer(tensors["anchor_projection"], tensors["codebook"])
        )
        self.enhanced_labeler = build_enhanced_labeler(birq.labels, tensors)
        label_tensors.restore(tensors, self.anchor_labeler, self.enhanced_labeler)
        loss = birq.loss
        self.schedule = WeightSchedule(loss.enhanced_weight, loss.anchor_weight, loss.start_step, loss.ramp_steps)
        self.bilevel_loss = BilevelLoss(loss.chunk_frames)
        self.set_up_watching(cfg.preprocessor.sample_rate)

    # --- the method -----------------------------------------------------------------------------------------------

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return super().input_types | {"generator": NeuralType(optional=True)}

    @typecheck()
    def forward(
        self,
        input_signal=None,
        input_signal_length=None,
        processed_signal=None,
        processed_signal_length=None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The masked pass. Arguments and results as in the parent class; either raw or processed signals.

        Returns:
            The unmasked features (B, F, T), the mask (B, F, T) as 0 and 1, the encoder's output (B, D, T') for the masked
            features, and its lengths (B,).
        """
        if (input_signal is None) == (processed_signal is None):
            raise ValueError("give either input_signal or processed_signal, with its length")
        if processed_signal is None:
            processed_signal, processed_signal_length = self.preprocessor(
                input_signal=input_signal, length=input_signal_length
            )
        features, lengths = processed_signal, processed_signal_length
        mask = to_device(self.masking.draw(lengths.cpu(), features.shape[2], generator), features.device)
        masked = self._mask(features, mask, generator)
        encoded, encoded_len = self.encoder(audio_signal=masked, length=lengths)
        return features, mask.unsqueeze(1).expand_as(features).to(features.dtype), encoded, encoded_len

    def _mask(self, features: Tensor, mask: Tensor, generator: torch.Generator | None) -> Tensor:
        return self.masking.fill(features, mask, generator) if self.apply_masking else features

    def losses(
        self, batch: SpeechBatch, weights: Weights, generator: torch.Generator, observe_labels: bool, over_ranks: bool
    ) -> Losses:
        """Both losses of a batch.

        Args:
            batch: signals of B utterances.
            weights: w1 and w2; with w1 = 0 the label pass is not run, unless
            observe_labels: the enhanced labels are wanted for their statistics.
            generator: of masks and Gumbel noise, on the host.
            over_ranks: normalize by the masked frames of all ranks.
        """
        features, lengths = self.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        on_host = self.preprocessor.featurizer.get_seq_len(batch.lengths_on_host)
        mask = self.masking.draw(on_host, features.shape[2], generator)
        usable = not batch.is_silent_stand_in
        return self.losses_of_features(
            features, lengths, mask & usable, weights, generator, observe_labels, over_ranks, usable
        )

    def losses_of_features(
        self,
        features: Tensor,
        lengths: Tensor,
        mask: Tensor,
        weights: Weights,
        generator: torch.Generator,
        observe_labels: bool = False,
        over_ranks: bool = True,
        usable: bool = True,
    ) -> Losses:
        """Both losses of normalized features (B, F, T) with lengths (B,) and a mask (B, T) bool on the host.

        The normalization of layer k passes over features that are not ``usable``.
        """
        masked = self._mask(features, to_device(mask, features.device), generator)
        targets = None
        if weights.enhanced > 0 or observe_labels:  # before the masked pass, whose activations stay in memory
            targets = self._enhanced_targets(features, lengths, mask, weights, generator, usable)
        encoded, encoded_len = self.encoder(audio_signal=masked, length=lengths)
        frames = to_device(self.masked_frames(mask, encoded.shape[2]), features.device)
        hidden = encoded.transpose(1, 2).flatten(0, 1)[frames]
        terms = {
            "hidden": hidden,
            "anchor_labels": self.anchor_labeler(features, frames, encoded.shape[2], lengths),
            "anchor_head": self.head("anchor"),
            "enhanced_head": self.head("enhanced"),
            "targets": targets,
            "enhanced_weight": weights.enhanced,
            "anchor_weight": weights.anchor,
            "over_ranks": over_ranks,
        }
        loss, found = self.bilevel_loss(**terms)
        health = {"num_frames": encoded_len.sum() * usable, "anchor_labels": terms["anchor_labels"], "found": found}
        return Losses(loss, health, terms)

    def _enhanced_targets(
        self, features: Tensor, lengths: Tensor, mask: Tensor, weights: Weights, generator: torch.Generator, usable: bool
    ) -> EnhancedTargets:
        """The label pass; without a graph where no gradient flows through the labels."""
        differentiable = weights.enhanced * self.enhanced_labeler.label_gradient > 0
        with torch.set_grad_enabled(torch.is_grad_enabled() and differentiable):
            hidden, hidden_len = encode_to_layer(self.encoder, features, lengths, self.layer, self.birq.labels.label_dropout)
            valid = valid_frames(hidden_len, hidden.shape[1]) & usable
            frames = to_device(self.masked_frames(mask, hidden.shape[1]), features.device)
            return self.enhanced_labeler(hidden, valid, frames, generator, update_statistics=weights.enhanced > 0)

    def head(self, task: str) -> MultiSoftmaxDecoder:
        """Predicts the labels of a task, ``anchor`` or ``enhanced``."""
        return self.decoder_losses[task if task in self.decoder_losses else "anchor"]["decoder"]

    def masked_frames(self, mask: Tensor, num_frames: int) -> Tensor:
        """Encoder frames that are predicted: mask (B, T) bool -> (N,) int64 positions in the flattened (B, T').

        They lie inside the true lengths as the masked feature frames do.

        Args:
            mask: on the host, so that their number is known without waiting for the device.
            num_frames: T'.
        """
        frames = self.masking.encoder_frames(mask, self.anchor_labeler.subsampling)
        frames = F.pad(frames, (0, num_frames - frames.shape[1]))  # causal subsampling adds a frame
        return positions(frames)

    @torch.no_grad()
    def labels(self, input_signal: Tensor, input_signal_length: Tensor) -> Labels:
        """Both labels of whole utterances: (B, samples) float32 and (B,) lengths in samples."""
        features, lengths = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        hidden, encoded_len = encode_to_layer(self.encoder, features, lengths, self.layer)
        valid = valid_frames(encoded_len, hidden.shape[1])
        frames = positions(valid)
        found = [
            self.anchor_labeler(features, frames, valid.shape[1], lengths),
            self.enhanced_labeler.nearest(hidden, valid, frames),
        ]
        padded = [torch.full((*valid.shape, codes.shape[1]), -1, device=valid.device) for codes in found]
        for labels, codes in zip(padded, found, strict=True):
            labels[valid] = codes
        return Labels(padded[0], padded[1], encoded_len)

    # --- data and optimizer ---------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        check_trainer(self._trainer)
        self._update_dataset_config(dataset_name="train", config=train_data_config)
        self._train_dl = self._build_dataloader(train_data_config, training=True)

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        self._update_dataset_config(dataset_name="validation", config=val_data_config)
        self._validation_dl = self._build_dataloader(val_data_config, training=False)

    def _build_dataloader(self, config: DictConfig, training: bool) -> torch.utils.data.DataLoader | None:
        return build_dataloader(config, self.cfg.sample_rate, self.global_rank, self.world_size, training)

    def setup_optimization(self, optim_config: DictConfig | dict | None = None, optim_kwargs: dict | None = None):
        name = (optim_config or self.cfg.get("optim") or {}).get("name")
        if name == "fused_adam" and find_spec("apex") is None:
            raise ValueError(
                "model.optim.name=fused_adam needs NVIDIA Apex, which is not installed. Build it from its source (see "
                "README, 'Apex'; the package named apex on the package index is another project), or use "
                "model.optim.name=adamw: PyTorch's own."
            )
        if self._trainer is not None and optim_config is None:
            optim_config = with_schedule_length(self.cfg.optim, self._trainer, self._train_dl)
        return super().setup_optimization(optim_config, optim_kwargs)

    # --- NeMo's tools ---------------------------------------------------------------------------------------------

    @property
    def oomptimizer_schema(self) -> dict:
        """Inputs by which NeMo's OOMptimizer finds the largest batch for each length."""
        return {
            "cls": tuple,
            "inputs": [
                {"type": NeuralType(("B", "T"), AudioSignal()), "seq_length": "input"},
                {"type": NeuralType(("B",), LengthsType()), "seq_length": "input"},
            ],
        }

    @classmethod
    def list_available_models(cls) -> list[PretrainedModelInfo]:
        """No pretrained BiRQ models are published yet."""
        return []
