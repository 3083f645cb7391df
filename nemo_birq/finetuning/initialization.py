"""Takes the encoder's weights over, by NeMo's ``init_from_nemo_model``, and looks whether that is what happened."""

from lightning.pytorch.utilities import rank_zero_only
from nemo.collections.asr.models import ASRModel
from omegaconf import OmegaConf

from nemo_birq.checkpoint.nemo_archive import read_weights
from nemo_birq.pretrained.named import ENCODER_PARTS
from nemo_birq.pretrained.weights import Taken, compare


def check_fresh_layers(number: int, num_layers: int) -> None:
    """Raises ValueError where ``fresh_layers`` is no number of layers that leaves one to take over."""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < num_layers:
        raise ValueError(
            f"fresh_layers={number}: a whole number from 0 to {num_layers - 1}, of the {num_layers} layers of the encoder"
        )


def initialize(model: ASRModel, path: str, fresh_layers: int = 0) -> Taken:
    """Copies preprocessor and encoder of a ``.nemo`` into a recognizer, and compares every tensor.

    Args:
        model: new, with random weights.
        path: of the file.
        fresh_layers: the top layers of the encoder that are not copied. What they learned in pretraining is to predict the
            labels of masked frames, and fine-tuning first has to undo it.

    Raises:
        ValueError: naming the tensors that are missing on one side, of another shape, or not equal afterwards.
    """
    source = read_weights(path)
    compare(model, source, path, values=False)
    num_layers = len(model.encoder.layers)
    fresh = tuple(f"encoder.layers.{layer}." for layer in range(num_layers - fresh_layers, num_layers))
    # Of a head of the same name nothing is taken.
    form = {"pretrained": {"path": path, "include": list(ENCODER_PARTS), "exclude": list(fresh)}}
    model.maybe_init_from_pretrained_checkpoint(OmegaConf.create({"init_from_nemo_model": form}))
    if rank_zero_only.rank == 0:  # NeMo fills the model of this rank alone, DDP sends it to the others
        compare(model, source, path, values=True, without=fresh)
    return Taken.of(model, source, ENCODER_PARTS, fresh)
