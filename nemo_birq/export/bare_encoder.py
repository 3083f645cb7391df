"""The encoder of a pretrained ``.nemo`` without the parts for pretraining, as a stock NeMo model.

The class stays ``SpeechEncDecSelfSupervisedModel``, with an empty ``loss_list``. It is the only stock class that can have a
preprocessor and an encoder without a head. Recognizers and classifiers require a decoder, whose random tensors the string
form of ``init_from_nemo_model`` would copy.
"""

import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from nemo.collections.asr.models import SpeechEncDecSelfSupervisedModel
from omegaconf import DictConfig, OmegaConf

from nemo_birq.checkpoint.artifacts import card_artifact, packed
from nemo_birq.checkpoint.model_card import build_card
from nemo_birq.checkpoint.nemo_archive import CHECKSUMS, CONFIG, WEIGHTS, complete_nemo, read_config, read_weights
from nemo_birq.checkpoint.stock_config import STOCK_TARGET
from nemo_birq.export.output_files import README
from nemo_birq.utils.files import complete_file

KEPT = ("sample_rate", "preprocessor", "encoder", "spec_augment", "pretraining", "card")
WRITTEN_BY_NEMO = ("target", "nemo_version", "loss_list")


@dataclass(frozen=True)
class BareEncoder:
    """A model with only preprocessor and encoder, and the parts of its file that were removed."""

    model: SpeechEncDecSelfSupervisedModel
    kept: dict[str, int]
    """Bytes of the kept parts of the model."""
    removed: dict[str, int]
    """Bytes of the removed parts of the model and of the files that only pretraining reads."""
    removed_keys: list[str]
    """Keys of the configuration that were removed."""


def check_source(source: Path) -> DictConfig:
    """Returns the configuration of a BiRQ ``.nemo``, or of a bare one.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a ``.nemo``, is damaged, has unsafe paths, or was not written by BiRQ.
    """
    config = read_config(source)
    if config.target != STOCK_TARGET or not ("birq" in config or "pretraining" in config):
        raise ValueError(
            f"{source} holds a {config.target.rsplit('.', 1)[-1]} that BiRQ did not pretrain: give a .nemo that "
            "birq pretrain wrote"
        )
    return config


def strip(source: Path, layer: int | None = None, **card: str | list[str] | None) -> BareEncoder:
    """Opens a BiRQ ``.nemo`` on the CPU in evaluation mode and keeps only preprocessor and encoder.

    Args:
        source: file that ``check_source`` has checked.
        layer: number of the last layer to keep; None: all.
        **card: ``license``, ``language`` and ``datasets`` for the model card; None keeps the values of the file.

    Raises:
        ValueError: as ``check_source``; also if the weights cannot be read or do not fit, or the encoder has no such layer.
    """
    config = check_source(source)
    depth = config.encoder.n_layers
    if layer is not None and not 1 <= layer <= depth:
        raise ValueError(f"--layer {layer} does not exist in {source}: give a layer from 1 to {depth}")
    model = SpeechEncDecSelfSupervisedModel(_bare_config(config, layer or depth, card)).eval()
    tensors, wanted = read_weights(source), model.state_dict().keys()
    try:
        model.load_state_dict({name: tensors[name] for name in wanted if name in tensors}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{source}: its weights do not fit its configuration ({error}): get the file again") from error
    return BareEncoder(
        model,
        _sizes({name: tensors[name] for name in wanted}),
        _sizes({name: tensor for name, tensor in tensors.items() if name not in wanted}) | _label_files(source),
        sorted(key for key in config if key not in (*KEPT, *WRITTEN_BY_NEMO)),
    )


def write_nemo(model: SpeechEncDecSelfSupervisedModel, out: Path) -> None:
    """Writes a bare model as ``.nemo`` with its card inside, and the card as README.md beside it.

    The files do not name the account that wrote them.
    """
    card = build_card(model, out.stem)
    with complete_nemo(out) as part, packed(model, card_artifact(card)):
        model.save_to(str(part))
    with complete_file(out.with_name(README)) as part:
        card.save(part)


def _bare_config(full: DictConfig, depth: int, card: dict) -> DictConfig:
    nodes = OmegaConf.to_container(full, resolve=True)
    bare = {key: nodes[key] for key in KEPT if nodes.get(key) is not None}
    bare["encoder"] = nodes["encoder"] | {"n_layers": depth}
    bare["card"] = bare.get("card", {}) | {key: value for key, value in card.items() if value} | {"file": None}
    record = bare.setdefault("pretraining", {"settings": {"birq": nodes.get("birq"), "optim": nodes.get("optim")}})
    if depth < nodes["encoder"]["n_layers"]:
        record.setdefault("layers", nodes["encoder"]["n_layers"])  # number of layers of the trained encoder
    return OmegaConf.create(bare | {"target": STOCK_TARGET, "loss_list": {}})


def _sizes(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Sums bytes by the first two parts of the tensor name for heads, otherwise by the first part."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        part = ".".join(parts[: 2 if parts[0] == "decoder_losses" else 1])
        sizes[part] = sizes.get(part, 0) + tensor.nbytes
    return sizes


def _label_files(source: Path) -> dict[str, int]:
    """Returns the bytes of the artifacts of a ``.nemo``, by name without NeMo's prefix, except the card, which is
    rewritten."""
    with tarfile.open(source) as archive:
        files = {PurePosixPath(member.name).name: member.size for member in archive if member.isfile()}
    names = {name: name.partition("_")[2] for name in files if name not in (CONFIG, WEIGHTS, CHECKSUMS)}
    return {names[name]: size for name, size in files.items() if names.get(name) not in (None, README)}
