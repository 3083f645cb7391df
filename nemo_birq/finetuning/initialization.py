"""Initialization of a recognizer with the preprocessor and encoder of a pretrained file.

NeMo's ``maybe_init_from_pretrained_checkpoint`` copies only tensors of equal names. Of a model with ``mask_position:
post_conv``, it would leave out the subsampling, which has other names there (``pretrained.source.unwrapped``).
"""

from pathlib import Path

from nemo.collections.asr.models import ASRModel

from nemo_birq.pretrained.named import ENCODER_PARTS
from nemo_birq.pretrained.source import read_source
from nemo_birq.pretrained.weights import Taken, compare


def check_fresh_layers(number: int, num_layers: int) -> None:
    """Raises ValueError if ``fresh_layers`` is not a number of layers that leaves at least one pretrained layer."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < num_layers:
        raise ValueError(
            f"fresh_layers={number}: give a whole number from 0 to {num_layers - 1}; the encoder has {num_layers} layers"
        )


def initialize(model: ASRModel, path: str, fresh_layers: int = 0) -> Taken:
    """Copies preprocessor and encoder of a ``.nemo`` or ``.ckpt`` into a recognizer.

    Args:
        model: new model with random weights.
        path: path of the file.
        fresh_layers: number of top layers of the encoder that are not copied. In pretraining, these layers learn to predict
            the labels of masked frames, which fine-tuning first has to undo.

    Raises:
        ValueError: tensors are missing on one side, or have another shape; the message names them.
    """
    source = read_source(Path(path)).weights
    compare(model, source, path)
    num_layers = len(model.encoder.layers)
    fresh = tuple(f"encoder.layers.{layer}." for layer in range(num_layers - fresh_layers, num_layers))
    taken = {key: value for key, value in source.items() if key.startswith(ENCODER_PARTS) and not key.startswith(fresh)}
    model.load_state_dict(taken, strict=False)  # a head of the same name is not copied
    return Taken.of(model, source, ENCODER_PARTS, fresh)
