"""The BiRQ model: wires NeMo's preprocessor, Conformer encoder and prediction heads to the labelers and the bilevel loss.

docs/architecture.md follows one batch through it, from the shard to the optimizer step.

Shapes: B utterances, F mel bins, T feature frames, T' encoder frames, D width, N masked frames, H codebooks, V codes.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from nemo.collections.asr.modules import MultiSoftmaxDecoder
from nemo.core.classes.common import typecheck
from nemo.core.neural_types import NeuralType
from nemo.utils import model_utils
from omegaconf import DictConfig, open_dict
from torch import Tensor

from nemo_birq.checkpoint import artifacts, hub
from nemo_birq.checkpoint.lightning_checkpoint import check_checkpoint
from nemo_birq.checkpoint.nemo_archive import complete_nemo, opening
from nemo_birq.checkpoint.stock_config import refuse_bare_encoder, with_stock_nodes
from nemo_birq.config import parse, resolve_layer
from nemo_birq.config_checks import check_modules, check_optimizer
from nemo_birq.data.batch import SpeechBatch, oomptimizer_schema
from nemo_birq.data.factory import build_dataloader
from nemo_birq.data.trainer_hooks import TrainingPosition, ValidateAtEnd, check_trainer, with_schedule_length
from nemo_birq.data.validation_sets import separate_sets
from nemo_birq.labels.factory import begin_step, build_labelers
from nemo_birq.labels.teacher import find_teacher
from nemo_birq.labels.utterance_labels import Labels, pad_labels
from nemo_birq.losses.bilevel import BilevelLoss, Losses, Weights, WeightSchedule
from nemo_birq.modules.frame_times import leading_frames
from nemo_birq.modules.layer_pass import attending, draw_context, encode_to_layer, label_context
from nemo_birq.modules.masking import SpanMasking, positions, valid_frames
from nemo_birq.modules.noisy_input import noisy_features
from nemo_birq.monitoring.callback import HealthMonitor
from nemo_birq.pretrained.initialization import initialize
from nemo_birq.utils.rng import draw_seed, step_seed, to_device


class BiRQModel(SpeechEncDecSelfSupervisedModel):
    """Self-supervised pretraining with anchor and enhanced labels (arXiv 2509.15430); w1 = 0 is BEST-RQ.

    ``extract_features`` and ``extract_labels`` are the public methods that compute layer outputs and labels of audio.

    Args:
        cfg: ``model`` node of a configuration in conf/; ``cfg.birq`` is described in ``config.BiRQConfig``.
        trainer: Lightning trainer.

    Raises:
        ValueError: before the first step, if a key of ``cfg.birq`` is out of range, the encoder has no layer k, or the
            manifest and the shards do not fit.
    """

    trained_steps: int | None = None
    """Number of optimizer steps of the checkpoint that the model was opened from; None without one."""
    _step = -1  # number of the last optimizer step
    _micro_batch = 0  # number within an optimizer step, with accumulate_grad_batches
    saved: Path | None = None
    """The last ``.nemo`` that was written in this training."""

    def __init__(self, cfg: DictConfig, trainer: Trainer | None = None):
        cfg = model_utils.convert_model_config_to_dict_config(cfg)
        refuse_bare_encoder(cfg)
        self.birq = birq = parse(cfg.get("birq"))
        check_modules(cfg, birq)
        self.teacher = find_teacher(cfg, birq)
        self.layer = resolve_layer(birq.labels.layer, cfg.encoder.n_layers)
        with open_dict(cfg):
            cfg.birq = asdict(birq)  # files must hold every value, because defaults may change
        super().__init__(cfg=with_stock_nodes(cfg, birq.loss.head == "separate"), trainer=trainer)

        self.sample_rate = cfg.sample_rate  # NeMo's OOMptimizer reads it
        self.subsampling, self.leading = cfg.encoder.subsampling_factor, leading_frames(self.encoder)
        tensors = artifacts.load_or_draw_tensors(self, cfg, birq)
        self.anchor_labeler, self.enhanced_labeler = build_labelers(birq, tensors, self.teacher, self.encoder)
        artifacts.restore_labels(self, tensors)
        self.masking = SpanMasking(**vars(birq.masking))
        loss = birq.loss
        self.schedule = WeightSchedule(loss.enhanced_weight, loss.anchor_weight, loss.start_step, loss.ramp_steps)
        self.bilevel_loss = BilevelLoss(loss.chunk_frames)
        self.monitor = HealthMonitor(birq, cfg.preprocessor.sample_rate)

    # --- the method -----------------------------------------------------------------------------------------------

    @property
    def input_types(self) -> dict[str, NeuralType]:
        return super().input_types | {"generator": NeuralType(optional=True)}

    @typecheck()
    def forward(
        self, input_signal=None, input_signal_length=None, processed_signal=None, processed_signal_length=None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Encodes a batch: with random masked spans in training mode, without masking in evaluation mode.

        Arguments and results are those of the parent class. The input is either raw or processed signals.

        Returns:
            The unmasked features (B, F, T), the mask (B, F, T) as 0 and 1, the encoder's output (B, D, T'), and its
            lengths (B,).
        """
        if (input_signal is None) == (processed_signal is None):
            raise ValueError("give either input_signal or processed_signal, with its length")
        if processed_signal is None:
            processed_signal, processed_signal_length = self.preprocessor(
                input_signal=input_signal, length=input_signal_length
            )
        features, lengths = processed_signal, processed_signal_length
        mask = torch.zeros(len(lengths), features.shape[2], dtype=torch.bool)
        if self.training:
            mask = self.masking.draw(lengths.cpu(), features.shape[2], generator)
        seed, context = draw_seed(generator), draw_context(self.encoder, generator)
        encoded, encoded_len = self.masked_pass(features, lengths, mask, seed, context)
        mask = to_device(mask, features.device).unsqueeze(1).expand_as(features).to(features.dtype)
        return features, mask, encoded, encoded_len

    def masked_pass(
        self, features: Tensor, lengths: Tensor, mask: Tensor, seed: int, context: list[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encodes features whose masked frames are replaced by noise.

        Args:
            features: (B, F, T) normalized log-mel features.
            lengths: (B,) int64, in feature frames.
            mask: (B, T) bool, on the host.
            seed: seed of the noise.
            context: attention context; None: the context of inference.

        Returns:
            The encoder's output (B, D, T') and its lengths (B,).
        """
        if self.apply_masking:
            features = self.masking.fill(features, to_device(mask, features.device), seed)
        with attending(self.encoder, context):
            return self.encoder(audio_signal=features, length=lengths)

    def label_pass(self, features: Tensor, lengths: Tensor, drawn: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Returns h^(k) of the unmasked features, and its lengths; ``drawn`` is the context of the masked pass, if any."""
        with attending(self.encoder, label_context(self.encoder, self.birq.labels.context, drawn)):
            labels, running = self.birq.labels, self.birq.labels.batch_norm == "running"
            return encode_to_layer(self.encoder, features, lengths, self.layer, labels.label_dropout, running)

    def losses(
        self, batch: SpeechBatch, weights: Weights, generator: torch.Generator, observe_labels: bool, over_ranks: bool
    ) -> Losses:
        """Computes both losses of a batch.

        Args:
            batch: signals of B utterances; the masked pass gets the ``noisy`` ones in place of the clean ones.
            weights: w1 and w2; with w1 = 0 the label pass runs only for its statistics, if ``observe_labels``.
            generator: generator of masks and Gumbel noise, on the host.
            over_ranks: normalize by the masked frames of all ranks.
        """
        features, lengths = self.preprocessor(input_signal=batch.signal, length=batch.signal_length)
        noisy = noisy_features(self.preprocessor, features, batch)
        on_host = self.preprocessor.featurizer.get_seq_len(batch.lengths_on_host)
        mask = self.masking.draw(on_host, features.shape[2], generator)
        usable = not batch.is_silent_stand_in
        return self.losses_of_features(
            features, lengths, mask & usable, weights, generator, observe_labels, over_ranks, usable, noisy
        )

    def losses_of_features(
        self, features: Tensor, lengths: Tensor, mask: Tensor, weights: Weights, generator: torch.Generator,
        observe_labels: bool = False, over_ranks: bool = True, usable: bool = True, noisy: Tensor | None = None,
    ) -> Losses:  # fmt: skip
        """Computes both losses of normalized features (B, F, T) with lengths (B,) and a mask (B, T) bool on the host.

        The masked pass gets the ``noisy`` features, if any. The normalization of layer k ignores features that are not
        ``usable``.
        """
        noise_seed, context, targets = draw_seed(generator), draw_context(self.encoder, generator), None
        if weights.enhanced > 0 or observe_labels:  # before the masked pass, whose activations stay in memory
            differentiable = weights.enhanced * self.enhanced_labeler.label_gradient > 0
            with torch.set_grad_enabled(torch.is_grad_enabled() and differentiable):
                hidden, hidden_len = self.label_pass(features, lengths, context)
                valid = valid_frames(hidden_len, hidden.shape[1]) & usable
                frames = to_device(self.masked_frames(mask, hidden.shape[1]), features.device)
                targets = self.enhanced_labeler(hidden, valid, frames, generator, update_statistics=weights.enhanced > 0)
                del hidden  # frees its memory before the masked pass
        encoded, encoded_len = self.masked_pass(features if noisy is None else noisy, lengths, mask, noise_seed, context)
        frames = to_device(self.masked_frames(mask, encoded.shape[2]), features.device)
        terms = {
            "hidden": encoded.transpose(1, 2).flatten(0, 1)[frames],
            "anchor_labels": self.anchor_labeler(features, lengths, frames, encoded.shape[2]),
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

    def head(self, task: str) -> MultiSoftmaxDecoder:
        """Returns the head that predicts the labels of a task, ``anchor`` or ``enhanced``."""
        return self.decoder_losses[task if task in self.decoder_losses else "anchor"]["decoder"]

    def masked_frames(self, mask: Tensor, num_frames: int) -> Tensor:
        """Returns the encoder frames that are predicted; see ``SpanMasking.masked_positions``."""
        return self.masking.masked_positions(mask, self.subsampling, num_frames, self.leading)

    # --- from audio to features and labels ------------------------------------------------------------------------

    @torch.no_grad()
    def extract_features(
        self, input_signal: Tensor, input_signal_length: Tensor, layer: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the output of an encoder layer for whole utterances, without masking and dropout.

        Args:
            input_signal: (B, samples) float32.
            input_signal_length: (B,) int64, in samples.
            layer: number in 1..L; None is the last layer.

        Returns:
            The output (B, T', D), and the lengths (B,) int64 in encoder frames.

        Raises:
            ValueError: the encoder has no such layer.
        """
        depth = len(self.encoder.layers)
        if layer is not None and not 1 <= layer <= depth:
            raise ValueError(f"layer={layer} does not exist: give a layer from 1 to {depth}")
        features, lengths = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        return encode_to_layer(self.encoder, features, lengths, layer or depth)

    @torch.no_grad()
    def extract_labels(self, input_signal: Tensor, input_signal_length: Tensor) -> Labels:
        """Returns both labels of whole utterances, without masking and Gumbel noise; see ``extract_features``."""
        features, lengths = self.preprocessor(input_signal=input_signal, length=input_signal_length)
        hidden, encoded_len = self.label_pass(features, lengths)
        valid = valid_frames(encoded_len, hidden.shape[1])
        frames = positions(valid)
        anchor = self.anchor_labeler(features, lengths, frames, valid.shape[1])
        return pad_labels(anchor, self.enhanced_labeler.nearest(hidden, valid, frames), valid, encoded_len)

    # --- steps ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: Sequence, batch_idx: int) -> dict[str, Tensor]:
        batch, step = SpeechBatch(*batch), self.trainer.global_step
        self._micro_batch = self._micro_batch + 1 if step == self._step else 0  # batch_idx differs after resuming
        self._step = step
        generator = torch.Generator().manual_seed(self._seed("train", step, self._micro_batch))
        torch.manual_seed(self._seed("dropout", step, self._micro_batch))  # the same dropout in a resumed run
        observed = self.schedule.full.enhanced > 0 and self.monitor.is_log_step(self.trainer)
        if self._micro_batch == 0:
            begin_step(step, self.anchor_labeler, self.enhanced_labeler)
        losses = self.losses(batch, self.schedule.at(step), generator, observe_labels=observed, over_ranks=True)
        self.monitor.observe(self, batch, losses, first=self._micro_batch == 0)
        return {"loss": losses.loss}

    def validation_step(self, batch: Sequence, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        batch = SpeechBatch(*batch)
        generator = torch.Generator().manual_seed(self._seed("validation", dataloader_idx, batch_idx))
        losses = self.losses(batch, self.schedule.full, generator, observe_labels=False, over_ranks=False)
        self.monitor.observe_validation(batch, losses.health, dataloader_idx, self.device)
        metrics = {"val_loss": losses.loss}
        several = isinstance(self.trainer.val_dataloaders, list) and len(self.trainer.val_dataloaders) > 1
        (self.validation_step_outputs[dataloader_idx] if several else self.validation_step_outputs).append(metrics)
        return metrics

    def multi_validation_epoch_end(self, outputs: list, dataloader_idx: int = 0) -> dict[str, Any]:
        metrics = self.monitor.validation_metrics(self, dataloader_idx)
        log = {f"val_{name}": torch.tensor(value) for name, value in metrics.items()}
        return {"val_loss": log["val_loss"], "log": log}

    def configure_callbacks(self) -> list[Callback]:
        return [*super().configure_callbacks(), self.monitor, ValidateAtEnd(), TrainingPosition()]

    def _seed(self, stream: str, *position: int) -> int:
        return step_seed(self.birq.seed, self.global_rank, stream, *position)

    # --- files ----------------------------------------------------------------------------------------------------

    def save_to(self, save_path: str) -> None:
        """Writes a ``.nemo`` that any NeMo opens, atomically, with label tensors, teacher and model card."""
        self.saved = Path(save_path)
        with complete_nemo(self.saved) as part, artifacts.packed_model(self, self.saved.stem):
            super().save_to(str(part))

    @classmethod
    def restore_from(cls, restore_path: str, *args: Any, **options: Any) -> "BiRQModel | DictConfig":
        with opening(restore_path):
            return super().restore_from(restore_path, *args, **options)

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str, *args: Any, **options: Any) -> "BiRQModel":
        check_checkpoint(checkpoint_path)  # Lightning would run code that a file holds
        return super().load_from_checkpoint(checkpoint_path, *args, **options)

    def on_train_start(self) -> None:
        super().on_train_start()
        self.saved = None  # this training must not replace the README.md beside a file that was written before it

    def on_train_end(self) -> None:
        super().on_train_end()
        if self.saved is not None and self.trainer.is_global_zero:  # NeMo's checkpoint callback has just written it
            artifacts.write_card_beside(self, self.saved)

    maybe_init_from_pretrained_checkpoint = initialize
    push_to_hf_hub = hub.push_to_hf_hub
    generate_model_card = hub.generate_model_card

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.monitor.check_finite(self)  # not in a callback, which a weights-only checkpoint would skip
        super().on_save_checkpoint(checkpoint)
        checkpoint["birq_label_tensors"] = artifacts.labels_of(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        artifacts.check_same_labels(self, checkpoint)
        # The tensors of the checkpoint are used, because this version of PyTorch may draw others from the seed.
        artifacts.restore_labels(self, checkpoint["birq_label_tensors"])
        self.trained_steps = checkpoint["global_step"]

    # --- data and optimizer ---------------------------------------------------------------------------------------

    def setup_training_data(self, train_data_config: DictConfig | dict) -> None:
        check_trainer(self._trainer)
        self._update_dataset_config(dataset_name="train", config=train_data_config)
        self._train_dl = self._build_dataloader(train_data_config, training=True)

    def setup_multiple_validation_data(self, val_data_config: DictConfig | dict) -> None:
        super().setup_multiple_validation_data(separate_sets(val_data_config))
        self._update_dataset_config(dataset_name="validation", config=val_data_config)

    def setup_validation_data(self, val_data_config: DictConfig | dict) -> None:
        self._update_dataset_config(dataset_name="validation", config=val_data_config)
        self._validation_dl = self._build_dataloader(val_data_config, training=False)

    def _build_dataloader(self, config: DictConfig, training: bool) -> torch.utils.data.DataLoader | None:
        return build_dataloader(config, self.cfg.sample_rate, self.global_rank, self.world_size, training)

    def setup_optimization(self, optim_config: DictConfig | dict | None = None, optim_kwargs: dict | None = None):
        check_optimizer((optim_config or self.cfg.get("optim") or {}).get("name"))
        if self._trainer is not None and optim_config is None:
            optim_config = with_schedule_length(self.cfg.optim, self._trainer, self._train_dl)
        return super().setup_optimization(optim_config, optim_kwargs)

    oomptimizer_schema = property(oomptimizer_schema)
