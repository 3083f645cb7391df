"""Small models, signals and a short training that the tests share."""

import copy

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from nemo_birq import BiRQModel
from nemo_birq.data.batch import SpeechBatch
from nemo_birq.losses.bilevel import Weights

SAMPLE_RATE = 16000
BASE = OmegaConf.create(
    {
        "sample_rate": SAMPLE_RATE,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "sample_rate": SAMPLE_RATE,
            "normalize": "per_feature",
            "window_size": 0.025,
            "window_stride": 0.01,
            "features": 20,
            "n_fft": 512,
            "dither": 0.0,
            "pad_to": 16,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConformerEncoder",
            "feat_in": 20,
            "n_layers": 3,
            "d_model": 32,
            "subsampling": "striding",
            "subsampling_factor": 4,
            "subsampling_conv_channels": 8,
            "n_heads": 2,
            "conv_kernel_size": 5,
            "sync_max_audio_length": False,
        },
        "decoder": {
            "_target_": "nemo.collections.asr.modules.ssl_modules.MultiSoftmaxDecoder",
            "feat_in": 32,
            "num_classes": 24,
            "num_decoders": 1,
            "use_bias": True,
        },
        "birq": {
            "quantizer": {"num_codes": 24, "code_dim": 8},
            "masking": {"start_probability": 0.03, "span_frames": 12},
            "labels": {"layer": 2, "label_gradient": 1.0, "normalization": "per_feature"},
            "loss": {"enhanced_weight": 0.7, "anchor_weight": 1.3, "head": "shared"},
        },
    }
)
FAST = {  # the encoder of a FastConformer
    "encoder__subsampling": "dw_striding", "encoder__subsampling_factor": 8, "encoder__subsampling_conv_channels": 16,
    "encoder__conv_kernel_size": 9,
}  # fmt: skip
STREAMING = {  # the encoder of +streaming=cache_aware
    "preprocessor__normalize": "NA", "preprocessor__pad_to": 0, "encoder__causal_downsampling": True,
    "encoder__att_context_size": [[8, 3], [8, 1], [8, 0]], "encoder__att_context_style": "chunked_limited",
    "encoder__conv_norm_type": "layer_norm", "encoder__conv_context_size": "causal",
    "birq__anchor__normalization": "per_feature",
}  # fmt: skip


def make_config(**changes: object) -> DictConfig:
    """Makes the small configuration with changes such as ``encoder__n_layers=4`` (two underscores for a dot)."""
    config = copy.deepcopy(BASE)
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    if "encoder__d_model" in changes:
        config.decoder.feat_in = config.encoder.d_model
    return config


def make_model(seed: int = 0, **changes: object) -> BiRQModel:
    """Makes a small model with reproducible weights."""
    torch.manual_seed(seed)
    return BiRQModel(make_config(**changes))


def trained_model(**changes):
    """Makes a small model with running statistics that differ from the initial ones."""
    model = make_model(**changes).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(2):
        model.losses(make_batch(seed=step), Weights(0.7, 1.3), generator(step), False, True).loss.backward()
        optimizer.step()
    return model


def make_batch(seconds: tuple[float, ...] = (2.0, 1.3, 0.7), seed: int = 0) -> SpeechBatch:
    """Makes signals with structure: tones that change, and noise."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([int(s * SAMPLE_RATE) for s in seconds])
    signal = torch.zeros(len(lengths), int(lengths.max()))
    for row, length in zip(signal, lengths, strict=True):
        time = torch.arange(int(length)) / SAMPLE_RATE
        pitch = 200 + 2000 * torch.rand(1, generator=generator)
        tone = torch.sin(2 * torch.pi * pitch * time * (1 + 0.3 * torch.sin(5 * time)))
        row[:length] = 0.3 * tone + 0.05 * torch.randn(int(length), generator=generator)
    return SpeechBatch(signal, lengths, [f"utterance-{i}" for i in range(len(lengths))])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Speech(torch.utils.data.IterableDataset):
    """Yields different batches of structured signals; ``change`` may damage them."""

    def __init__(self, change=lambda batch: batch):
        self.change = change

    def __iter__(self):
        for number in range(1000):
            yield self.change(make_batch((1.5, 1.2, 0.9, 0.8), seed=number))


def train(model, folder, steps, lr=1e-3, change=lambda batch: batch, ckpt_path=None, **options) -> pl.Trainer:
    """Trains a small model with a real trainer; AdamW, TensorBoard, one batch of validation at the start."""
    options = {
        "log_every_n_steps": 1, "enable_checkpointing": False, "num_sanity_val_steps": 1, "accelerator": "cpu",
        "enable_progress_bar": False,
    } | options  # fmt: skip
    model.configure_optimizers = lambda: torch.optim.AdamW(model.parameters(), lr=lr)
    loader = torch.utils.data.DataLoader(Speech(change), batch_size=None)
    model._validation_dl = loader  # NeMo's hooks read it
    trainer = pl.Trainer(
        max_steps=steps, limit_val_batches=1, logger=TensorBoardLogger(folder, name="", version=""),
        enable_model_summary=False, use_distributed_sampler=False, **options,
    )  # fmt: skip
    trainer.fit(model, loader, loader, ckpt_path=ckpt_path)
    return trainer
