"""The small training runs that storms are made of: the command of a user, a few seconds long."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tarred_manifests"
NAME = "storm"
SMALL_ENCODER = ("model.encoder.n_layers=2", "model.encoder.d_model=32", "model.encoder.subsampling_conv_channels=8")
QUIET = ("trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false", "trainer.accelerator=cpu")
SHORT = ("trainer.log_every_n_steps=1", "+trainer.limit_val_batches=1")
VALIDATION = f"{CORPUS}/validation/validation.json"

PRETRAIN = (
    "birq", "pretrain", "--config-name=birq_conformer_tiny", f"name={NAME}", *SMALL_ENCODER, *QUIET, *SHORT,
    f"model.train_ds.manifest_filepath={VALIDATION}", f"model.validation_ds.manifest_filepath={VALIDATION}",
    "model.train_ds.batch_duration=4", "model.validation_ds.batch_duration=8",
    "model.train_ds.max_duration=2.5",  # epochs shorter than the run
    "model.birq.quantizer.num_codes=64", "model.birq.watch.probe_seconds=2", "model.birq.watch.gradient_interval=5",
    "model.birq.watch.learned_by_step=6",  # an alarm, to be kept
    "model.encoder.dropout=0.1", "enhanced_start_step=2", "enhanced_ramp_steps=4",
)  # fmt: skip
FINETUNE = (
    "birq", "finetune", "--config-name=ctc_char", f"name={NAME}", *QUIET, *SHORT,
    "trainer.max_steps=12", "trainer.limit_train_batches=4",
    f"model.train_ds.manifest_filepath={VALIDATION}", f"model.validation_ds.manifest_filepath={VALIDATION}",
    "model.train_ds.batch_duration=6", "model.validation_ds.batch_duration=8", "model.train_ds.max_duration=3",
    "model.train_ds.num_buckets=2", "model.train_ds.num_workers=0", "model.validation_ds.num_workers=0",
    "model.train_ds.pin_memory=false", "model.validation_ds.pin_memory=false", "trainer.precision=32",
    "exp_manager.resume_if_exists=true", "trainer.num_sanity_val_steps=0",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A command whose starts are disturbed."""

    name: str
    arguments: Sequence[str]
    """Arguments of the command, without the folder of the experiment."""
    ranks: int = 1
    has_workers: bool = False
    """True if worker processes load the data."""
    is_exact: bool = True
    """True if a resumed run equals an uninterrupted one bit for bit; False if it is complete, but has another data order."""

    def command(self, folder: Path) -> list[str]:
        """Returns the whole command of a run that writes below ``folder``."""
        return [*self.arguments, f"exp_manager.exp_dir={folder}", f"trainer.devices={self.ranks}"]


def rank_environments(ranks: int) -> list[dict[str, str]]:
    """Returns the environment of each rank of a start, with torchrun's variables if there are several."""
    if ranks == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "NODE_RANK": "0",
        "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "storm",
    }  # fmt: skip
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def pretraining(steps: int = 12) -> Run:
    """Returns a pretraining in one process that writes three checkpoints."""
    return Run("pretraining", (*PRETRAIN, *_length(steps)))


def pretraining_with_workers() -> Run:
    """Returns a pretraining with two worker processes that load data, and with the labels that have the most state."""
    labels = (
        "objective=refined_tracked",
        "model.birq.labels.layer=1",
        "model.birq.anchor.fit_steps=5",
        "model.birq.anchor.refine_steps=[8]",
    )
    return Run("2 workers", (*PRETRAIN, *_length(12), "model.train_ds.num_workers=2", *labels), has_workers=True)


def pretraining_on_two_ranks() -> Run:
    """Returns a pretraining on two gloo processes."""
    few = ("trainer.strategy=ddp", "model.train_ds.batch_duration=3", "+exp_manager.seconds_to_sleep=1")
    return Run("2 ranks", (*PRETRAIN, *_length(12), *few), ranks=2)


def finetuning(nemo: Path) -> Run:
    """Returns a fine-tuning of a pretrained file."""
    own = (f"init_from_nemo_model={nemo}", f"test_manifests=[{VALIDATION}]")
    return Run("fine-tuning", (*FINETUNE, *own), is_exact=False)


def _length(steps: int) -> tuple[str, str]:
    return f"trainer.max_steps={steps}", f"trainer.val_check_interval={steps // 3}"
