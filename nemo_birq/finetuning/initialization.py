"""Initialization of the encoder with NeMo's ``init_from_nemo_model``, and a check of the result."""

from lightning.pytorch.utilities import rank_zero_only
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_birq.checkpoint.nemo_archive import read_weights
from nemo_birq.pretrained.named import ENCODER_PARTS
from nemo_birq.pretrained.weights import Taken, compare


def check_fresh_layers(number: int, num_layers: int) -> None:
    """Raises ValueError if ``fresh_layers`` is not a number of layers that leaves at least one pretrained layer."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < num_layers:
        raise ValueError(
            f"fresh_layers={number}: give a whole number from 0 to {num_layers - 1}; the encoder has {num_layers} layers"
        )


def initialize(model: ASRModel, path: str, fresh_layers: int = 0) -> Taken:
    """Copies preprocessor and encoder of a ``.nemo`` into a recognizer, and compares every tensor.

    Args:
        model: new model with random weights.
        path: path of the file.
        fresh_layers: number of top layers of the encoder that are not copied. In pretraining, these layers learn to predict
            the labels of masked frames, which fine-tuning first has to undo.

    Raises:
        ValueError: tensors are missing on one side, have another shape, or are not equal afterwards; the message names them.
    """
    source = read_weights(path)
    compare(model, source, path, values=False)
    num_layers = len(model.encoder.layers)
    fresh = tuple(f"encoder.layers.{layer}." for layer in range(num_layers - fresh_layers, num_layers))
    # A head of the same name is not copied.
    form = {"pretrained": {"path": path, "include": list(ENCODER_PARTS), "exclude": list(fresh)}}
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": form}))
    if rank_zero_only.rank == 0:  # NeMo initializes the model of this rank only, and DDP broadcasts it
        compare(model, source, path, values=True, without=fresh)
    return Taken.of(model, source, ENCODER_PARTS, fresh)
