"""Check before training that the longest utterances fit into memory."""

import torch

from nemo_birq.data.longest import find_longest_of_loader
from nemo_birq.model import BiRQModel
from nemo_birq.modules.attention_memory import check_attention_fits

REMEDY = (
    "Skip longer utterances with model.{node}.max_duration={{seconds}}, or cut them: birq make-shards cuts recordings at "
    "--max-duration"
)


def check_longest_batches(model: BiRQModel, device: torch.device) -> None:
    """Checks the longest utterance of training and of validation, which may be a batch by itself.

    Args:
        model: model with its data loaders.
        device: device that will train it.

    Raises:
        ValueError: an utterance does not fit; the message names it and the key that excludes it.
    """
    validation = model.val_dataloader() or []
    loaders = [("train_ds", model.train_dataloader())]
    loaders += [("validation_ds", one) for one in (validation if isinstance(validation, list) else [validation])]
    for node, loader in loaders:
        if longest := find_longest_of_loader(loader):
            remedy, training = REMEDY.format(node=node), node == "train_ds"
            check_attention_fits(model, longest.name, longest.seconds, remedy, training, device)
