"""State of the health monitor in a checkpoint, so that a resumed run logs the same numbers as an uninterrupted one.

    {"ranks": [{"log", "probe", "labels"}, ...], "gradients", "optimizer", "logged", "validation_codes_used"}

``ranks`` has an entry for each rank: the sums since the last logged step, the lengths of the probe's utterances, and their
labels at the last comparison. With another number of ranks, the first rank continues with the sums of all ranks, and the
first comparison of labels is skipped. The peak memory belongs to a process and is not saved.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nemo_birq.monitoring.gradient_health import GradientProducts
from nemo_birq.utils.distributed import gather_over_ranks, rank, world_size

if TYPE_CHECKING:
    from nemo_birq.monitoring.callback import HealthMonitor

KEY = "birq_health"


def collect(monitor: "HealthMonitor") -> dict[str, Any]:
    """Returns the state of all ranks as plain values and tensors on the CPU. Every rank must call it."""
    gradients = monitor.training_log.gradients
    of_rank = {
        "log": monitor.training_log.state_of_rank(),
        "probe": monitor.probe.lengths,
        "labels": {stage: _on_cpu(churn.last) for stage, churn in monitor.churn.items()},
    }
    return {
        "ranks": gather_over_ranks(of_rank),
        "gradients": None if gradients is None else {"names": [*gradients.names], "products": _on_cpu(gradients.products)},
        "optimizer": dict(monitor.optimizer_values),
        "logged": {stage: dict(values) for stage, values in monitor.logged.items()},
        "validation_codes_used": {
            number: {task: _on_cpu(used) for task, used in log.health.codes_used.items()}
            for number, log in monitor.validation.items()
        },
    }


def restore(monitor: "HealthMonitor", state: dict[str, Any], device: torch.device) -> None:
    """Restores a state that ``collect`` has returned.

    Args:
        monitor: monitor of this rank.
        state: state of all ranks.
        device: device of the model.
    """
    ranks = state["ranks"]
    if len(ranks) == world_size():
        own = ranks[rank()]
        monitor.training_log.load_state_of_rank(own["log"])
        monitor.probe.resume(own["probe"])
        for stage, labels in own["labels"].items():
            monitor.churn[stage].last = None if labels is None else labels.to(device)
    elif rank() == 0:
        monitor.training_log.load_state_of_rank(_joined([of_rank["log"] for of_rank in ranks]))
    if state["gradients"] is not None:
        products = state["gradients"]["products"].to(device)
        monitor.training_log.gradients = GradientProducts(tuple(state["gradients"]["names"]), products)
    monitor.optimizer_values, monitor.logged = state["optimizer"], state["logged"]
    for number, codes_used in state["validation_codes_used"].items():
        for task, used in monitor.validation_log(number, device).health.codes_used.items():
            used.copy_(codes_used[task])


def skipped(state: dict[str, Any]) -> tuple[float, float]:
    """Returns number and share of the utterances that could not be read, up to the checkpoint."""
    sums = _joined([of_rank["log"] for of_rank in state["ranks"]])["sums"]
    number = float(sums["skipped.sum_value"])
    return number, number / max(1.0, float(sums["utterances.sum_value"]))


def _joined(logs: list[dict[str, Any]]) -> dict[str, Any]:
    sums = {name: torch.stack([log["sums"][name] for log in logs]).sum(dim=0) for name in logs[0]["sums"]}
    return {"sums": sums, "seconds": max(log["seconds"] for log in logs)}


def _on_cpu(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.cpu().clone()
