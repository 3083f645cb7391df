"""The recognizer's preprocessor and encoder are those of the pretrained model, or training does not begin.

NeMo's ``init_from_nemo_model`` takes what fits and says nothing about the rest: six layers go into four, batch
normalization into layer normalization, and training starts partly from scratch.
"""

import inspect

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf, open_dict

# What matters during training only, and does not change what the pretrained weights mean.
FREE_KEYS = {
    "preprocessor": {"dither", "pad_to"},
    "encoder": {
        "dropout", "dropout_pre_encoder", "dropout_emb", "dropout_att", "stochastic_depth_drop_prob",
        "stochastic_depth_mode", "stochastic_depth_start_layer", "sync_max_audio_length", "use_pytorch_sdpa",
        "use_pytorch_sdpa_backends", "pos_emb_max_len",
    },
}  # fmt: skip


def take_architecture(model: DictConfig, source: DictConfig, path: str) -> None:
    """Fills ``model.preprocessor`` and ``model.encoder`` from a pretrained configuration.

    What the user has set there is laid over it: dropout and the like may differ, all else must be the same.

    Args:
        model: ``model`` node of a fine-tuning configuration.
        source: configuration of the ``.nemo`` ``path``.

    Raises:
        ValueError: with the list of differences.
    """
    found = []
    if model.sample_rate != source.sample_rate:
        found.append(f"model.sample_rate={model.sample_rate}; pretrained: {source.sample_rate}")
    with open_dict(model):
        for node, free in FREE_KEYS.items():
            own, theirs = _plain(model.get(node)), _plain(source[node])
            found += [f"model.{node}.{line}" for line in differences(own, theirs, free)]
            model[node] = theirs | own
        if "model_defaults" in model:
            model.model_defaults.enc_hidden = model.encoder.d_model  # NeMo's RNNT classes read it there
    if found:
        raise ValueError(
            f"the recognizer would not be the model in {path}, and NeMo would start it partly from scratch:\n  "
            + "\n  ".join(found)
            + "\nLeave these keys out: all of preprocessor and encoder is taken from the file"
        )


def differences(own: dict, theirs: dict, free: set[str]) -> list[str]:
    """Lists the keys of ``own`` that differ from ``theirs``, where an absent key has the default of the class."""
    defaults = {}
    if theirs["_target_"].startswith("nemo."):  # others are not imported for a file's sake; NeMo refuses them later
        parameters = inspect.signature(get_class(theirs["_target_"])).parameters
        defaults = {name: parameter.default for name, parameter in parameters.items()}
    return [
        f"{key}={value}; pretrained: {theirs.get(key, defaults.get(key))}"
        for key, value in sorted(own.items())
        if key not in free and value != theirs.get(key, defaults.get(key))
    ]


def _plain(node: DictConfig | None) -> dict:
    return {} if node is None else OmegaConf.to_container(node, resolve=True)
