"""Small random speech encoders: of NeMo's self-supervised classes, and of transformers in folders."""

from pathlib import Path

import torch
from nemo.core import ModelPT
from omegaconf import OmegaConf

from tests.helpers.models import FAST, make_config

PARAKEET = FAST | {"preprocessor__features": 24, "encoder__feat_in": 24}
"""Changes to the small model after which ``birq export`` writes a folder for transformers."""
FAMILY = ("Wav2Vec2", "Hubert", "WavLM")
"""Names of classes of transformers with the convolutions of Wav2Vec2."""


def stock_self_supervised(kind: str, mask_position: str = "pre_conv") -> ModelPT:
    """A model of NEST's classes, by NeMo's own code; ``mask_position`` as in its configuration."""
    from nemo.collections.asr.models import ssl_models

    base = make_config(**FAST)
    combined = 8 if mask_position == "pre_conv" else 1
    quantizer = {"_target_": "nemo.collections.asr.modules.ssl_modules.RandomProjectionVectorQuantizer", "feat_in": 20,
                 "code_dim": 8, "num_books": 1, "num_classes": 24, "dist_fn": "l2", "squeeze_single": False, "freeze": True,
                 "combine_time_steps": combined}  # fmt: skip
    masking = {"_target_": "nemo.collections.asr.modules.RandomBlockMasking", "block_size": 12, "mask_prob": 0.03,
               "feat_in": 20, "freeze": True, "allow_overlap": True}  # fmt: skip
    cfg = {key: base[key] for key in ("sample_rate", "preprocessor", "encoder")} | {
        "spec_augment": {"_target_": "nemo.collections.asr.modules.SpectrogramAugmentation", "freq_masks": 0},
        "num_classes": 24, "num_books": 1, "code_dim": 8, "squeeze_single": False, "mask_position": mask_position,
        "quantizer": quantizer, "masking": masking, "decoder": dict(base.decoder) | {"squeeze_single": False},
        "loss": {"_target_": "nemo.collections.asr.losses.MultiMLMLoss", "combine_time_steps": 8, "mask_threshold": 0.8,
                 "num_decoders": 1, "squeeze_single": False},
        "optim": {"name": "adamw", "lr": 1e-3},
    }  # fmt: skip
    torch.manual_seed(6)
    return getattr(ssl_models, kind)(OmegaConf.create(cfg))


def write_wav2vec2(folder: Path, kind: str = "Wav2Vec2", **changes: object) -> Path:
    """Writes a random encoder of the Wav2Vec2 family, with 20 ms a frame."""
    import transformers

    config = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64,
              "conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
              "feat_extract_norm": "layer"}  # fmt: skip
    torch.manual_seed(1)
    model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**config | changes))
    model.save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder)
    return folder
