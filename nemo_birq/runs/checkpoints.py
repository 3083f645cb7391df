"""The checkpoint from which a run resumes: the newest undamaged one, whatever its name.

NeMo's exp_manager uses the only file named ``*last.ckpt``. A process that is killed while it saves leaves two of them, or a
marker beside one, and a full disk or an interrupted copy leaves a damaged one. Then exp_manager stops or restarts.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nemo.utils import logging
from nemo.utils.callbacks import NeMoModelCheckpoint

from nemo_birq.checkpoint.lightning_checkpoint import AVERAGE, check_checkpoint, peek_checkpoint
from nemo_birq.utils.files import PART, complete_file

LAST, MARKER = "last.ckpt", NeMoModelCheckpoint.UNFINISHED_CHECKPOINT_SUFFIX
LAST_NAME = "{name}--{{step}}-last"
"""Name of the last checkpoint, without a metric because no validation precedes a checkpoint after a signal."""
DAMAGED = ".damaged"
"""Suffix added to the name of a checkpoint that cannot be read."""


class Candidate(NamedTuple):
    """A checkpoint whose header could be read."""

    step: int
    is_last: bool
    modified: float
    path: Path


def settle(folder: Path, name: str, requeue_folder: Path, with_average: bool) -> Path | None:
    """Chooses the checkpoint to resume from, and removes files that would prevent NeMo from using it.

    Temporary files, markers of unfinished checkpoints, and ``*last.ckpt`` older than the chosen one are deleted. A damaged
    checkpoint is renamed to ``*.ckpt.damaged``, and the previous one is chosen. If that is one of the best checkpoints,
    because the process was killed before it saved the last one, it is copied to the name of the last one.

    Args:
        folder: folder of the checkpoints.
        name: name of the run, with which the name of the last checkpoint begins.
        requeue_folder: folder in which Lightning saves ``hpc_ckpt_*.ckpt`` before SLURM restarts the job.
        with_average: a checkpoint is complete only with its ``*-EMA.ckpt``.

    Returns:
        Path of the checkpoint; None if there is none.

    Raises:
        ValueError: there are checkpoints, but none can be read.
    """
    for leftover in [*folder.glob(f"*{PART}"), *folder.glob(f"*{MARKER}")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    for requeued in requeue_folder.glob("hpc_ckpt_*.ckpt"):  # exp_manager would move it out of this folder
        requeued.rename(folder / requeued.name)
    damaged: list[str] = []
    candidates = sorted(_candidates(folder, damaged), reverse=True)
    for number, candidate in enumerate(candidates):
        if _is_whole(candidate.path, with_average, damaged):
            chosen = candidate.path if candidate.is_last else _copied(candidate, name, with_average)
            for older in candidates[number + 1 :]:
                if older.is_last:
                    _remove(older.path)
            if damaged:
                logging.warning(f"Resuming from {candidate.path} (step {candidate.step})")
            return chosen
    if damaged:
        raise ValueError(
            f"no checkpoint in {folder} can be read: {'; '.join(damaged)}. Put an undamaged copy there to resume, or "
            "start a new run with another name="
        )
    return None


def _candidates(folder: Path, damaged: list[str]) -> Iterator[Candidate]:
    for path in folder.glob("*.ckpt"):
        if path.name.endswith(AVERAGE) or not path.is_file():
            continue
        try:
            step = _step(path)
        except ValueError as error:
            _set_aside(path, error, damaged)
            continue
        is_last = path.name.endswith(LAST) or path.name.startswith("hpc_ckpt_")
        yield Candidate(step, is_last, path.stat().st_mtime, path)


def _step(path: Path) -> int:
    """Returns the number of optimizer steps of a checkpoint, without reading its tensors."""
    content = peek_checkpoint(path)
    try:
        return int(content["global_step"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a checkpoint of a training run ({type(error).__name__}: {error})") from error


def _is_whole(path: Path, with_average: bool, damaged: list[str]) -> bool:
    average = path.with_name(path.stem + AVERAGE)
    for file in (path, average) if with_average else (path,):
        try:
            check_checkpoint(file)
        except (ValueError, FileNotFoundError) as error:
            _set_aside(path, error, damaged)
            return False
    return True


def _set_aside(path: Path, error: Exception, damaged: list[str]) -> None:
    aside = path.with_name(path.name + DAMAGED)
    path.rename(aside)
    damaged.append(str(error))
    logging.warning(f"A checkpoint is damaged and was renamed to {aside}: {error}")


def _copied(best: Candidate, name: str, with_average: bool) -> Path:
    """Copies a checkpoint, after its average, to the name of the last checkpoint of its step."""
    last = best.path.with_name(LAST_NAME.format(name=name).format(step=f"step={best.step}") + ".ckpt")
    for suffix in (AVERAGE, ".ckpt") if with_average else (".ckpt",):
        with complete_file(last.with_name(last.stem + suffix)) as part:
            shutil.copyfile(best.path.with_name(best.path.stem + suffix), part)
    return last


def _remove(path: Path) -> None:
    logging.info(f"Removing {path}, because a newer checkpoint is undamaged")
    path.unlink()
    path.with_name(path.stem + AVERAGE).unlink(missing_ok=True)
