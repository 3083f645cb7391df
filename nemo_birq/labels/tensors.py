"""The tensors that define the labels: drawn from a seed, saved beside the weights, and checked when they are loaded.

They are not in the state dict, because the stock NeMo class must load our files strictly. A ``.nemo`` holds them as an
artifact, a checkpoint under its own key. A checksum protects them: a model with other projections would silently train on
other labels.
"""

import torch
from torch import Tensor

from nemo_birq.config import AnchorConfig, LabelsConfig, QuantizerConfig
from nemo_birq.labels.anchor import AnchorLabeler
from nemo_birq.labels.enhanced import EnhancedLabeler
from nemo_birq.labels.quantizer import checksum, draw_codebook, draw_projection

FIXED = ("anchor_projection", "enhanced_projection", "codebook")


def draw(
    config: QuantizerConfig, anchor: AnchorConfig, labels: LabelsConfig, input_dim: int, layer_dim: int
) -> dict[str, Tensor]:
    """Draws both projections, the codebook and the initial values of fitted and tracked ones, float32, from ``config.seed``.

    Args:
        config: sizes and seed.
        anchor: settings of the anchor labels, whose projection and codes may be fitted later.
        labels: settings of the enhanced labels, which may have their own code dimension.
        input_dim: width of stacked input frames, S * F.
        layer_dim: D, the encoder's width.
    """
    generator = torch.Generator().manual_seed(config.seed)
    books, codes = config.num_books, config.num_codes
    layer_code_dim = labels.code_dim or config.code_dim
    tensors = {
        "codebook": draw_codebook(books, codes, config.code_dim, generator),
        "anchor_projection": draw_projection(input_dim, books, config.code_dim, generator),
        "enhanced_projection": draw_projection(layer_dim, books, layer_code_dim, generator),
    }
    fitted = {
        "anchor_projection": anchor.projection == "pca",
        "enhanced_projection": labels.projection == "pca",
        "anchor_codebook": anchor.codes == "kmeans",
    }
    for name in filter(fitted.get, fitted):
        tensors[f"fitted_{name}"] = tensors["codebook" if name == "anchor_codebook" else name].clone()
    if labels.codebook != "random":
        name = "enhanced_codebook" if labels.codebook == "tracked" else "fitted_enhanced_codebook"
        tensors[name] = draw_codebook(books, codes, layer_code_dim, generator)
    return tensors


def fixed_checksum(tensors: dict[str, Tensor]) -> str:
    """Returns the checksum of projections and codebook."""
    return checksum(*(tensors[name] for name in FIXED))


def verify(tensors: dict[str, Tensor], expected: str | None, source: str) -> None:
    """Refuses projections and a codebook other than those that the model was trained with.

    Raises:
        ValueError: a tensor is missing, or the checksum differs.
    """
    missing = [name for name in FIXED if not isinstance(tensors.get(name), Tensor)]
    if missing:
        raise ValueError(
            f"{source}: there is no {' and no '.join(missing)} among {', '.join(map(str, tensors))}. Use an undamaged copy "
            "of the file"
        )
    found = fixed_checksum(tensors)
    if expected is not None and found != expected:
        raise ValueError(
            f"{source}: the projections and codebook have the checksum {found}, but the configuration has {expected}. "
            "The labels would not be those of the training. Use an undamaged copy of the file; for a new model remove "
            "model.birq.quantizer.checksum from its configuration."
        )


def collect(anchor: AnchorLabeler, enhanced: EnhancedLabeler) -> dict[str, Tensor]:
    """Returns copies on the CPU of all tensors that define the labels: projections, codebooks, statistics of layer k."""
    return {name: tensor.detach().cpu().clone() for name, tensor in _tensors(anchor, enhanced)}


def restore(tensors: dict[str, Tensor], anchor: AnchorLabeler, enhanced: EnhancedLabeler) -> None:
    """Copies collected tensors into labelers. Statistics that the file lacks are not changed.

    Raises:
        ValueError: a shape differs, or only one of file and model has a tracked codebook or fitted tensors.
    """
    needed, found = (
        {name for name in names if name.startswith("fitted_")} for names in (dict(_tensors(anchor, enhanced)), tensors)
    )
    if needed != found:
        there, wanted = (", ".join(sorted(names)) or "no fitted tensors" for names in (found, needed))
        raise ValueError(
            f"the file holds {there}, but this model has {wanted}: its labels would change. Resume with the values of "
            "model.birq.anchor.projection, model.birq.anchor.codes, model.birq.labels.projection and "
            "model.birq.labels.codebook that the file was made with, or start a new experiment (another exp_manager.name or "
            "exp_dir)"
        )
    tracked = enhanced.tracking is not None
    if tracked != ("enhanced_codebook" in tensors):
        trained, own = ("random", "tracked") if tracked else ("tracked", "random")
        raise ValueError(
            f"the file was made with model.birq.labels.codebook={trained}, but this model has {own}: its labels would "
            f"change. Resume with labels.codebook={trained}, or start a new experiment (another exp_manager.name or exp_dir)"
        )
    for name, own in _tensors(anchor, enhanced):
        if name not in tensors:
            continue
        if own.shape != tensors[name].shape:
            raise ValueError(
                f"{name} has the shape {tuple(tensors[name].shape)}, but this model needs {tuple(own.shape)}: the file was "
                "made with other values of model.birq.quantizer or model.birq.labels. Set these values"
            )
        own.copy_(tensors[name])
    for labeler in (anchor, enhanced):
        if labeler.fitting is not None:
            labeler.fitting.load(tensors)
    if enhanced.choice is not None:
        enhanced.choice.load(tensors)
    if enhanced.tracking is not None and "tracked_batches" not in tensors:
        enhanced.tracking.go_on_from_full_averages()


def _tensors(anchor: AnchorLabeler, enhanced: EnhancedLabeler) -> list[tuple[str, Tensor]]:
    # On a GPU, each labeler has its own copy of the shared codebook.
    return [*anchor.tensors().items(), *enhanced.tensors().items()]
