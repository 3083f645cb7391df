"""The encoder of a pretrained ``.nemo`` without what only pretraining needs, as a model that stock NeMo knows.

The class stays ``SpeechEncDecSelfSupervisedModel``, with an empty ``loss_list``. It is the one stock class that has a
preprocessor and an encoder and, with that, no head: recognizers and classifiers insist on a decoder whose tensors would be
random and would be taken over by the string form of ``init_from_nemo_model``.
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
    """A model with nothing but preprocessor and encoder, and what was left out of the file it comes from."""

    model: SpeechEncDecSelfSupervisedModel
    kept: dict[str, int]
    """Bytes by part of the model."""
    removed: dict[str, int]
    """Bytes by part of the model, and of files that only pretraining reads."""
    removed_keys: list[str]
    """Of the configuration."""


def check_source(source: Path) -> DictConfig:
    """The configuration of a BiRQ ``.nemo``, or of one that is already bare.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no ``.nemo``, a damaged one, one with unsafe paths, or one that BiRQ did not write.
    """
    config = read_config(source)
    if config.target != STOCK_TARGET or not ("birq" in config or "pretraining" in config):
        raise ValueError(
            f"{source} holds a {config.target.rsplit('.', 1)[-1]} that BiRQ did not pretrain; name the .nemo that "
            "birq pretrain ended with"
        )
    return config


def strip(source: Path, layer: int | None = None, **card: str | list[str] | None) -> BareEncoder:
    """Opens a BiRQ ``.nemo`` on the CPU in evaluation mode and leaves out all but preprocessor and encoder.

    Args:
        source: checked by ``check_source``.
        layer: keep only the layers 1 to ``layer``; None: all.
        **card: ``license``, ``language`` and ``datasets`` for the model card; None leaves what the file says.

    Raises:
        ValueError: as ``check_source``, weights that cannot be read or do not fit, or the encoder has no such layer.
    """
    config = check_source(source)
    depth = config.encoder.n_layers
    if layer is not None and not 1 <= layer <= depth:
        raise ValueError(f"--layer {layer}: the encoder of {source} has the layers 1 to {depth}")
    model = SpeechEncDecSelfSupervisedModel(_bare_config(config, layer or depth, card)).eval()
    tensors, wanted = read_weights(source), model.state_dict().keys()
    try:
        model.load_state_dict({name: tensors[name] for name in wanted if name in tensors}, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{source}: its weights do not fit its configuration ({error}); get the file again") from error
    return BareEncoder(
        model,
        _sizes({name: tensors[name] for name in wanted}),
        _sizes({name: tensor for name, tensor in tensors.items() if name not in wanted}) | _label_files(source),
        sorted(key for key in config if key not in (*KEPT, *WRITTEN_BY_NEMO)),
    )


def write_nemo(model: SpeechEncDecSelfSupervisedModel, out: Path) -> None:
    """Writes a bare model as ``.nemo`` with its card inside, and the card as README.md beside it.

    Neither names the account that wrote it.
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
        record.setdefault("layers", nodes["encoder"]["n_layers"])  # of the encoder that was trained
    return OmegaConf.create(bare | {"target": STOCK_TARGET, "loss_list": {}})


def _sizes(tensors: dict[str, torch.Tensor]) -> dict[str, int]:
    """Bytes by the first two parts of a name where it is a head's, else by the first."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        part = ".".join(parts[: 2 if parts[0] == "decoder_losses" else 1])
        sizes[part] = sizes.get(part, 0) + tensor.nbytes
    return sizes


def _label_files(source: Path) -> dict[str, int]:
    """Bytes of the artifacts of a ``.nemo``, without the prefix that NeMo gives their names; the card is written anew."""
    with tarfile.open(source) as archive:
        files = {PurePosixPath(member.name).name: member.size for member in archive if member.isfile()}
    names = {name: name.partition("_")[2] for name in files if name not in (CONFIG, WEIGHTS, CHECKSUMS)}
    return {names[name]: size for name, size in files.items() if names.get(name) not in (None, README)}
