"""Measures a whole training from its log: throughput, utilization, memory and the time that it waits for data.

    python benchmarks/training_speed.py                                    # the tiny model on a CPU, a minute
    python benchmarks/training_speed.py --config birq_conformer_large --device cuda --precision bf16-mixed
    python benchmarks/training_speed.py --config birq_conformer_155m --device cuda --precision bf16-mixed --devices 2

Runs scripts/speech_pre_training.py on the embedded corpus, with several devices under torchrun, and reads its log. Further
arguments are Hydra overrides. Writes docs/results/training_speed_CONFIG_DEVICE_DEVICES.json.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from nemo_birq.report.events import scalars
from nemo_birq.utils.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tarred_manifests"
SCRIPT = ROOT / "scripts" / "speech_pre_training.py"
MEASURED = ("audio_hours_per_hour", "mfu", "padding_share", "memory_gb", "anchor_loss", "enhanced_loss")
ROW = r"\|\s*{}\s*\|[^|]*\|[^|]*\|\s*([\d.e+-]+)\s*\|"  # of Lightning's simple profiler: action, mean, calls, total


def overrides_of(args: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the arguments of the training script."""
    accelerator = "gpu" if args.device == "cuda" else "cpu"
    return [
        f"--config-name={args.config}", "name=speed", f"exp_manager.exp_dir={folder}",
        f"model.train_ds.manifest_filepath={CORPUS}/train/sharded_manifests/manifest__OP_0..3_CL_.json",
        f"model.train_ds.tarred_audio_filepaths={CORPUS}/train/audio__OP_0..3_CL_.tar",
        f"model.validation_ds.manifest_filepath={CORPUS}/validation/validation.json",
        f"model.train_ds.batch_duration={args.batch_seconds:g}", f"model.train_ds.num_workers={args.workers}",
        f"trainer.accelerator={accelerator}", f"trainer.devices={args.devices}", f"trainer.precision={args.precision}",
        f"trainer.sync_batchnorm={'true' if args.device == 'cuda' else 'false'}",
        f"trainer.max_steps={args.steps}", f"trainer.log_every_n_steps={max(1, args.steps // 4)}",
        f"trainer.val_check_interval={10 * args.steps}", "trainer.num_sanity_val_steps=0", "+trainer.profiler=simple",
        "trainer.enable_progress_bar=false", "exp_manager.create_checkpoint_callback=false", "checkpoint_minutes=null",
        "exp_manager.resume_if_exists=false", *args.overrides,
    ]  # fmt: skip


def command_of(args: argparse.Namespace, folder: Path) -> list[str]:
    """Returns the command, which is torchrun's for several devices."""
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={args.devices}"] if args.devices > 1 else []
    )
    return [sys.executable, *launcher, str(SCRIPT), *overrides_of(args, folder)]


def read_result(folder: Path, log: str) -> dict[str, float]:
    """Reads the last logged numbers, and the share of the time of the steps that training waits for data.

    Raises:
        ValueError: the training has logged nothing, or has printed no profile.
    """
    logged = scalars(folder)
    result = {name: logged[f"train_{name}"][-1][1] for name in MEASURED if f"train_{name}" in logged}
    seconds = {}
    for action in (r"\[_TrainingEpochLoop\]\.train_dataloader_next", "run_training_batch"):
        row = re.search(ROW.format(action), log)
        if row is None or not result:
            raise ValueError(f"no profile or no logged step in the output of the training, which ends with:\n{log[-2000:]}")
        seconds[action] = float(row.group(1))
    waiting, steps = seconds.values()
    return result | {"share_waiting_for_data": waiting / (waiting + steps)}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of the configuration")
    parser.add_argument("--config", default="birq_conformer_tiny", help="a file of conf/ (default birq_conformer_tiny)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--devices", type=int, default=1, help="number of GPUs, or of processes on a CPU (default 1)")
    parser.add_argument("--precision", default="32", help="precision of the trainer (default 32)")
    parser.add_argument("--batch-seconds", type=float, default=30.0, help="seconds of audio a batch and device (default 30)")
    parser.add_argument(
        "--steps", type=int, default=40, help="steps of the training, of which the last quarter counts (default 40)"
    )
    parser.add_argument("--workers", type=int, default=2, help="workers of the data loader of each device (default 2)")
    parser.add_argument("--out", type=Path)
    return parser


def main() -> None:
    parser = arguments()
    args = parser.parse_args()
    for name in ("devices", "steps"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} {getattr(args, name)}: at least 1")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command_of(args, Path(folder)), cwd=ROOT, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"the training failed with status {done.returncode}; its output ends with:\n{done.stderr[-4000:]}")
        result = read_result(Path(folder), done.stdout + done.stderr)
    setting = {name: value for name, value in vars(args).items() if name != "out"}
    out = args.out or ROOT / "docs" / "results" / f"training_speed_{args.config}_{args.device}_{args.devices}.json"
    write_json(out, {"setting": setting, **result})
    print(", ".join(f"{name} {value:.3g}" for name, value in result.items()))
    print(out)


if __name__ == "__main__":
    main()
