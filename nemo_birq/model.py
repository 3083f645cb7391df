"""The BiRQ model: wires NeMo's preprocessor, Conformer encoder and prediction head to the labelers and the bilevel loss.

One batch, from the shard to the optimizer step:

    data/loader.py            tar shard -> SpeechBatch
    preprocessor (NeMo)       signal -> normalized log-mel features                      B, F, T
    masking.py                features -> masked features
    encoder (NeMo)            the masked pass, all L layers                              B, T', D
    layer_pass.py             the label pass: unmasked features, layers 1..k             B, T', D
    anchor_labeler.py         features -> anchor labels at masked frames                 N, H
    enhanced_labeler.py       h^(k) -> enhanced labels at masked frames                  N, H, V
    bilevel_loss.py           head at masked frames, w1 F + w2 G

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, D width, N masked frames, H codebooks, V codes.
"""

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.core.classes.common import PretrainedModelInfo, typecheck
from nemo.core.neural_types import AudioSignal, LengthsType, NeuralType
from nemo.utils import logging, model_utils
from omegaconf import DictConfig, open_dict
from torch import Tensor

from nemo_birq import label_tensors
from nemo_birq.anchor_labeler import AnchorLabeler
from nemo_birq.bilevel_loss import BilevelLoss, Weights, WeightSchedule, predict
from nemo_birq.config import BiRQConfig, parse
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.data.loader import build_dataloader
from nemo_birq.data.trainer import check_trainer, with_schedule_length
from nemo_birq.enhanced_labeler import EnhancedLabeler
from nemo_birq.handoff.card_file import CardFile
from nemo_birq.label_files import LabelFiles
from nemo_birq.layer_normalization import LayerNormalization
from nemo_birq.layer_pass import encode_to_layer, resolve_layer
from nemo_birq.masking import SpanMasking, valid_frames
from nemo_birq.quantizer import RandomProjectionQuantizer
from nemo_birq.stock_config import refuse_bare_encoder, with_stock_nodes
from nemo_birq.training_steps import TrainingSteps


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


class BiRQModel(TrainingSteps, LabelFiles, CardFile, SpeechEncDecSelfSupervisedModel):
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
        _check_modules(cfg, birq)
        self.layer = resolve_layer(birq.labels.layer, cfg.encoder.n_layers)
        with open_dict(cfg):
            cfg.birq = asdict(birq)  # files carry every value, also those that are defaults today
        super().__init__(cfg=with_stock_nodes(cfg, birq.loss.head == "separate"), trainer=trainer)

        tensors = self._label_tensors()
        codebook = tensors["codebook"]
        self.masking = SpanMasking(**vars(birq.masking))
        self.anchor_labeler = AnchorLabeler(
            RandomProjectionQuantizer(tensors["anchor_projection"], codebook), cfg.encoder.subsampling_factor
        )
        self.enhanced_labeler = EnhancedLabeler(
            RandomProjectionQuantizer(tensors["enhanced_projection"], codebook),
            LayerNormalization(cfg.encoder.d_model, birq.labels.normalization, birq.labels.statistics, birq.labels.momentum),
            logit_scale=birq.labels.logit_scale,
            temperature=birq.labels.temperature,
            hard=birq.labels.hard,
            label_gradient=birq.labels.label_gradient,
        )
        label_tensors.restore(tensors, self.anchor_labeler, self.enhanced_labeler)
        loss = birq.loss
        self.schedule = WeightSchedule(loss.enhanced_weight, loss.anchor_weight, loss.start_step, loss.ramp_steps)
        self.bilevel_loss = BilevelLoss()
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
        mask = self.masking.draw(lengths, features.shape[2], generator)
        masked = self.masking.fill(features, mask, generator) if self.apply_masking else features
        encoded, encoded_len = self.encoder(audio_signal=masked, length=lengths)
        return features, mask.unsqueeze(1).expand_as(features).to(features.dtype), encoded, encoded_len

    def losses(
        self, batch: SpeechBatch, weights: Weights, generator: torch.Generator, observe_labels: bool, over_ranks: bool
    ) -> Losses:
        """Both losses of a batch.

        Args:
            batch: signals of B utterances.
            weights: w1 and w2; with w1 = 0 the label pass is not run, unless
            observe_labels: the enhanced labels are wanted for their statistics.
            generator: of masks and Gumbel noise.
            over_ranks: normalize by the masked frames of all ranks.
        """
        features, lengths = self.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        return self.losses_of_features(
            features, lengths, weights, generator, observe_labels, over_ranks, usable=not batch.is_silent_stand_in
        )

    def losses_of_features(
        self,
        features: Tensor,
        lengths: Tensor,
        weights: Weights,
        generator: torch.Generator,
        observe_labels: bool = False,
        over_ranks: bool = True,
        usable: bool = True,
    ) -> Losses:
        """Both losses of normalized features (B, F, T) with lengths (B,); if not ``usable`` no frame counts as masked."""
        _, spec_masks, encoded, encoded_len = self.forward(
            processed_signal=features, processed_signal_length=lengths, generator=generator
        )
        valid = valid_frames(encoded_len, encoded.shape[2])
        valid = valid & usable
        frames = self.masked_frames(spec_masks, valid)
        hidden = encoded.transpose(1, 2)[frames]

        anchor_labels = self.anchor_labeler(features, frames)
        anchor_log_probs = predict(self.decoder_losses["anchor"]["decoder"], hidden)
        enhanced, enhanced_log_probs = None, None
        if weights.enhanced > 0 or observe_labels:
            with torch.set_grad_enabled(
                torch.is_grad_enabled() and weights.enhanced * self.enhanced_labeler.label_gradient > 0
            ):
                layer_output, _ = encode_to_layer(
                    self.encoder, features, lengths, self.layer, self.birq.labels.label_dropout
                )
                enhanced = self.enhanced_labeler(
                    layer_output, valid, frames, generator, update_statistics=weights.enhanced > 0
                )
            enhanced_log_probs = anchor_log_probs
            if "enhanced" in self.decoder_losses:
                enhanced_log_probs = predict(self.decoder_losses["enhanced"]["decoder"], hidden)
        terms = {
            "anchor_log_probs": anchor_log_probs,
            "anchor_labels": anchor_labels,
            "enhanced_log_probs": enhanced_log_probs,
            "enhanced_labels": None if enhanced is None else enhanced.soft,
            "enhanced_weight": weights.enhanced,
            "anchor_weight": weights.anchor,
            "over_ranks": over_ranks,
        }
        loss, anchor_sum, enhanced_sum = self.bilevel_loss(**terms)
        if enhanced is None and "enhanced" in self.decoder_losses:
            # A head without a gradient would be an error under DDP while w1 is still 0.
            loss = loss + 0.0 * sum(p.sum() for p in self.decoder_losses["enhanced"].parameters())
        health = {
            "num_frames": valid.sum(),
            "anchor_labels": anchor_labels,
            "anchor_log_probs": anchor_log_probs.detach(),
            "anchor_loss": anchor_sum,
        }
        if enhanced is not None:
            health |= {
                "enhanced": enhanced,
                "enhanced_log_probs": enhanced_log_probs.detach(),
                "enhanced_loss": enhanced_sum,
            }
        return Losses(loss, health, terms)

    def masked_frames(self, spec_masks: Tensor, valid: Tensor) -> Tensor:
        """Encoder frames that are predicted: the mask (B, F, T) of ``forward`` and (B, T') bool -> (B, T') bool."""
        frames = self.masking.encoder_frames(spec_masks[:, 0], self.anchor_labeler.subsampling)
        return F.pad(frames, (0, valid.shape[1] - frames.shape[1])) & valid  # causal subsampling adds a frame

    @torch.no_grad()
    def labels(self, input_signal: Tensor, input_signal_length: Tensor) -> Labels:
        """Both labels of whole utterances: (B, samples) float32 and (B,) lengths in samples."""
        features, lengths = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        hidden, encoded_len = encode_to_layer(self.encoder, features, lengths, self.layer)
        valid = valid_frames(encoded_len, hidden.shape[1])
        found = [self.anchor_labeler(features, valid), self.enhanced_labeler.nearest(hidden, valid, valid)]
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


def _check_modules(cfg: DictConfig, birq: BiRQConfig) -> None:
    """What the configuration's modules must have in common, before any of them is built."""
    encoder, quantizer = cfg.encoder, birq.quantizer
    if encoder.get("reduction") or encoder.get("feat_out", -1) not in (-1, encoder.d_model):
        raise ValueError("model.encoder: reduction and feat_out are not supported, layer k must have the encoder's width")
    head = cfg.decoder
    if not str(head.get("_target_")).endswith(".MultiSoftmaxDecoder"):
        raise ValueError(f"model.decoder._target_={head.get('_target_')}: the prediction head must be a MultiSoftmaxDecoder")
    sizes = {"num_classes": quantizer.num_codes, "num_decoders": quantizer.num_books, "feat_in": encoder.d_model}
    for key, needed in sizes.items():
        if head.get(key, 1) != needed:
            raise ValueError(f"model.decoder.{key}={head.get(key)} does not fit: quantizer and encoder need {needed}")
    if cfg.preprocessor.get("normalize") != "per_feature":
        logging.warning(
            f"model.preprocessor.normalize={cfg.preprocessor.get('normalize')}: the anchor labels of features that are not "
            "normalized per feature over time collapse onto few codes. Use per_feature."
        )
