"""The training steps that are compared: stock NeMo's BEST-RQ, ours, BiRQ, and a lower bound, the floor.

All have the same encoder, input, mask coverage, codebook size, gradient clipping and optimizer. A step is the same as in
Lightning: forward pass and loss under autocast, zeroing of gradients, backward pass, clipping, optimizer.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from nemo.collections.asr.models import EncDecMaskedTokenPredModel
from nemo.utils import logging
from omegaconf import DictConfig, OmegaConf
from step_timing import BACKWARD, LABEL_PASS, LABELS, MASKED_PASS, MASKING, OPTIMIZER, PREPROCESSOR, STATISTICS, Clock, Parts
from torch import Tensor, nn

from nemo_birq import BiRQModel
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.modules.layer_pass import label_mode

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000
CLIP = 1.0
LEARNING_RATE = 1e-7  # so that the labels of the last step are those of the first
MIDDLE = [
    "model.encoder.n_layers=8", "model.encoder.d_model=256", "model.encoder.n_heads=4",
    "model.encoder.subsampling_conv_channels=64", "model.birq.quantizer.num_codes=8192",
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Configuration, batch and device of a measurement."""

    config: str
    """A file of conf/, or ``middle``: 8 x 256 with 8192 codes."""
    overrides: tuple[str, ...] = ()
    device: str = "cpu"
    precision: str = "32"
    batch_seconds: float = 60.0
    utterance_seconds: float = 15.0
    threads: int | None = None
    clock: str = "wall"
    """``wall`` or ``processor``."""

    def model_config(self, *overrides: str) -> DictConfig:
        name, ours = ("birq_conformer_tiny", MIDDLE) if self.config == "middle" else (self.config, [])
        defaults = ["model.train_ds=null", "model.validation_ds=null", *ours]
        with initialize_config_dir(str(ROOT / "conf"), version_base=None):
            config = compose(name, overrides=[*defaults, *self.overrides, *overrides])
        return OmegaConf.create(OmegaConf.to_container(config.model, resolve=True))

    def batch(self) -> SpeechBatch:
        """Returns noise in utterances of the given length, as many as come nearest to the seconds of the batch."""
        count = max(1, round(self.batch_seconds / self.utterance_seconds))
        samples = round(self.batch_seconds / count * RATE)
        signal = 0.1 * torch.randn(count, samples, generator=torch.Generator().manual_seed(0))
        lengths = torch.full((count,), samples)
        names = [f"noise-{i}" for i in range(count)]
        return SpeechBatch(signal.to(self.device), lengths.to(self.device), names, num_samples=lengths.tolist())

    def make_clock(self) -> Clock:
        return Clock(self.device, self.clock == "processor")

    def check(self) -> None:
        """Raises a ValueError if this setting cannot be measured."""
        configs = sorted([path.stem for path in (ROOT / "conf").glob("bi*.yaml")] + ["middle"])
        if self.config not in configs:
            raise ValueError(f"--config {self.config}: unknown; there are {', '.join(configs)}")
        if self.batch_seconds < 1 or self.utterance_seconds < 1:
            raise ValueError(
                f"--batch-seconds {self.batch_seconds:g} --utterance-seconds {self.utterance_seconds:g}: at least 1 second "
                "each, else no span of masked frames fits in"
            )
        if self.clock == "processor" and (self.device == "cuda" or (self.threads or torch.get_num_threads()) > 1):
            raise ValueError("--clock processor: only on a CPU with --threads 1, the seconds of several threads add up")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                "--device cuda: PyTorch sees no GPU here (torch.cuda.is_available() is False); use --device cpu"
            )
        if self.device == "cuda" and self.precision.startswith("bf16") and not torch.cuda.is_bf16_supported(False):
            name = torch.cuda.get_device_name()
            raise ValueError(f"--precision {self.precision}: {name} has no bfloat16 arithmetic; use --precision 32")

    def prepare(self) -> None:
        """Sets up this process."""
        logging.setLevel(logging.ERROR)
        if self.threads:
            torch.set_num_threads(self.threads)


class Variant:
    """A model with its optimizer and a function that computes its loss; ``idle`` parameters have fixed gradients."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[SpeechBatch, int], Tensor],
        parts: Parts,
        precision: str,
        idle: dict[nn.Parameter, Tensor] | None = None,
    ):
        self.model, self.loss, self.parts, self.precision, self.idle = model, loss, parts, precision, idle or {}
        optim = {key: value for key, value in model.cfg.optim.items() if key != "sched"} | {"lr": LEARNING_RATE}
        self.optimizer, _ = model.setup_optimization(OmegaConf.create(optim))
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.number = 0
        self.device = self.trained[0].device.type

    def step(self, batch: SpeechBatch) -> Tensor:
        """Takes one training step and returns its loss."""
        self.number += 1
        with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            loss = self.loss(batch, self.number)
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in self.idle.items():
            parameter.grad = gradient
        with self.parts.part(BACKWARD):
            loss.backward()
        with self.parts.part(OPTIMIZER):
            nn.utils.clip_grad_norm_(self.trained, CLIP)
            self.optimizer.step()
        return loss.detach()


def stock_best_rq(setting: Setting, parts: Parts) -> Variant:
    """Builds NeMo's class with the modules of its nest_fast-conformer.yaml and our encoder."""
    ours = setting.model_config()
    model = EncDecMaskedTokenPredModel(stock_config(ours, setting)).to(setting.device).train()
    watched = {PREPROCESSOR: model.preprocessor, MASKING: model.mask_processor, MASKED_PASS: model.encoder,
               LABELS: model.quantizer}  # fmt: skip
    for name, module in watched.items():
        parts.watch(module, name)

    def loss(batch: SpeechBatch, number: int) -> Tensor:  # its training_step, less the logging that needs a trainer
        log_probs, lengths, masks, tokens = model.forward(
            input_signal=batch.signal, input_signal_length=batch.signal_length, apply_mask=True
        )
        return model.loss(masks=masks, decoder_outputs=log_probs, targets=tokens, decoder_lengths=lengths)

    return Variant(model, loss, parts, setting.precision)


def stock_config(ours: DictConfig, setting: Setting) -> DictConfig:
    """Returns the configuration of stock NeMo's model with our encoder, optimizer, codebook size and mask coverage."""
    quantizer, masking, factor = ours.birq.quantizer, ours.birq.masking, ours.encoder.subsampling_factor
    books = {"num_books": quantizer.num_books, "squeeze_single": False}
    frames = round(setting.batch().signal.shape[1] / RATE * 100)
    coverage = 1 - (1 - masking.start_probability) ** masking.span_frames
    modules, losses = "nemo.collections.asr.modules", "nemo.collections.asr.losses"
    return OmegaConf.create(
        {
            "sample_rate": ours.sample_rate,
            "preprocessor": OmegaConf.to_container(ours.preprocessor),
            "encoder": OmegaConf.to_container(ours.encoder),
            "optim": OmegaConf.to_container(ours.optim) | {"name": "adamw"},
            **books,
            "num_classes": quantizer.num_codes,
            "mask_position": "pre_conv",
            "spec_augment": {"_target_": f"{modules}.SpectrogramAugmentation", "freq_masks": 0, "time_masks": 0},
            "masking": {
                "_target_": f"{modules}.RandomBlockMasking",
                "block_size": masking.span_frames,
                "mask_prob": start_probability(coverage, masking.span_frames, frames),
                "feat_in": ours.preprocessor.features,
                "freeze": True,
                "allow_overlap": True,
            },
            "quantizer": {
                "_target_": f"{modules}.RandomProjectionVectorQuantizer",
                "feat_in": ours.preprocessor.features,
                "code_dim": quantizer.code_dim,
                "num_classes": quantizer.num_codes,
                "dist_fn": "l2",
                "freeze": True,
                "combine_time_steps": factor,
                **books,
            },
            "decoder": {
                "_target_": f"{modules}.MultiSoftmaxDecoder",
                "feat_in": ours.encoder.d_model,
                "num_classes": quantizer.num_codes,
                "num_decoders": quantizer.num_books,
                "squeeze_single": False,
                "use_bias": True,
            },
            "loss": {
                "_target_": f"{losses}.MultiMLMLoss",
                "combine_time_steps": factor,
                "mask_threshold": masking.threshold,
                "num_decoders": quantizer.num_books,
                "squeeze_single": False,
            },
        }
    )


def start_probability(coverage: float, span: int, frames: int) -> float:
    """Returns the start probability with which NeMo's masking, with spans inside the utterance, covers the same share."""
    if frames <= span:
        raise ValueError(f"--utterance-seconds: {frames} frames of 10 ms are not more than a span of {span}")
    covering = torch.tensor([min(t, frames - span) - max(0, t - span + 1) + 1 for t in range(frames)])
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        covers_less = float((1 - (1 - middle) ** covering).mean()) < coverage
        low, high = (middle, high) if covers_less else (low, middle)
    return low


def ours(setting: Setting, parts: Parts, *overrides: str) -> Variant:
    """Builds this project's model, with everything that ``training_step`` does at a step that is not logged."""
    model = BiRQModel(setting.model_config(*overrides)).to(setting.device).train()
    model.monitor.training_log.to(setting.device)  # which a trainer does otherwise
    watched = {PREPROCESSOR: [model.preprocessor], MASKED_PASS: [model.encoder],
               LABELS: [model.anchor_labeler, model.enhanced_labeler]}  # fmt: skip
    for name, modules in watched.items():
        for module in modules:
            parts.watch(module, name)
    parts.watch_label_pass(model.encoder, model.layer)
    for name in ("draw", "fill"):
        setattr(model.masking, name, _timed(getattr(model.masking, name), parts))

    def loss(batch: SpeechBatch, number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        losses = model.losses(batch, model.schedule.full, generator, observe_labels=False, over_ranks=True)
        with parts.part(STATISTICS):
            model.monitor.finite.remember(number, batch, losses.loss)
            model.monitor.training_log.health.update(**losses.health)
            model.monitor.training_log.count(batch)
        return losses.loss

    return Variant(model, loss, parts, setting.precision)


def _timed(call: Callable, parts: Parts) -> Callable:
    def timed(*args, **kwargs):
        with parts.part(MASKING):
            return call(*args, **kwargs)

    return timed


def floor(setting: Setting, parts: Parts, *overrides: str) -> Variant:
    """Builds the lower bound of a BiRQ step: both encoder passes and the optimizer, with the mean of squares as the loss.

    The passes are stock NeMo's, from given features. The gradients of the heads are zeros, so that clipping and optimizer
    have as much work as in the real step.
    """
    model = BiRQModel(setting.model_config(*overrides)).to(setting.device).train()
    encoder, layer, gradient = model.encoder, model.layer, model.birq.labels.label_gradient > 0
    with torch.no_grad():
        batch = setting.batch()
        features, lengths = model.preprocessor(input_signal=batch.signal, length=batch.signal_length)
    all_layers = encoder.layer_drop_probs

    def loss(batch: SpeechBatch, number: int) -> Tensor:
        with ExitStack() as stack:
            stack.enter_context(parts.part(LABEL_PASS))
            stack.enter_context(torch.set_grad_enabled(gradient))
            stack.enter_context(label_mode(encoder, dropout=False))
            encoder.layer_drop_probs = all_layers[:layer]  # NeMo's loop over the layers ends where this list does
            squares = encoder(audio_signal=features, length=lengths)[0].square().mean()
            encoder.layer_drop_probs = all_layers
        with parts.part(MASKED_PASS):
            total = encoder(audio_signal=features, length=lengths)[0].square().mean()
        return total + squares if gradient else total

    idle = {parameter: torch.zeros_like(parameter) for parameter in model.decoder_losses.parameters()}
    return Variant(model, loss, parts, setting.precision, idle)


BUILDERS: dict[str, Callable[[Setting, Parts], Variant]] = {
    "stock BEST-RQ": stock_best_rq,
    "BEST-RQ": lambda s, p: ours(s, p, "model.birq.loss.enhanced_weight=0", "model.birq.loss.head=shared"),
    "BiRQ": lambda s, p: ours(s, p, "model.birq.labels.label_gradient=0"),
    "BiRQ, label gradient": lambda s, p: ours(s, p, "model.birq.labels.label_gradient=1"),
    "floor": lambda s, p: floor(s, p, "model.birq.labels.label_gradient=0"),
    "floor, label gradient": lambda s, p: floor(s, p, "model.birq.labels.label_gradient=1"),
}


def build(name: str, setting: Setting) -> Variant:
    """Builds a variant with weights that depend only on the setting."""
    torch.manual_seed(0)
    return BUILDERS[name](setting, Parts(setting.make_clock()))
