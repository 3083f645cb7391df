"""Trains a recognizer from unlabelled audio in minutes, on the embedded corpus; `make demo` runs this script.

1. Pretrains birq_conformer_tiny on the tar shards in tarred_manifests/ and writes a .nemo.
2. Fine-tunes it with CTC and NeMo's own classes, and at the same time trains the same model from scratch.
3. Transcribes the test utterances with both.
4. Writes the report of the pretraining, a page with its curves (birq report).

Each run has its own folder under demo_out/, with logs, checkpoints, the report and summary.json.
"""

import argparse
import json
import multiprocessing
import os
import re
import runpy
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.text import Text

from nemo_birq.report.events import scalars
from nemo_birq.report.experiment_folder import read_runs
from nemo_birq.report.page import write_report
from nemo_birq.utils.terminal import Terminal

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "tarred_manifests"
TRAIN = [
    f"model.train_ds.manifest_filepath={CORPUS}/train/sharded_manifests/manifest__OP_0..3_CL_.json",
    f"model.train_ds.tarred_audio_filepaths={CORPUS}/train/audio__OP_0..3_CL_.tar",
    f"model.validation_ds.manifest_filepath={CORPUS}/validation/validation.json",
    "trainer.num_sanity_val_steps=0", "trainer.enable_progress_bar=false",
]  # fmt: skip
PRETRAIN = ["--config-name=birq_conformer_tiny", *TRAIN]
console = Terminal()


def start(log: Path, threads: int, script: str, *overrides: str) -> BaseProcess:
    """Starts a script of this folder with its output in a file, in a fork of this process, which imports NeMo only once."""
    import nemo_birq.finetuning.training
    import nemo_birq.model  # noqa: F401

    common = PRETRAIN if script == "speech_pre_training.py" else TRAIN
    command = [str(ROOT / "scripts" / script), *common, *overrides]
    process = multiprocessing.get_context("fork").Process(target=_run, args=(command, log, threads))
    process.start()
    return process


def _run(command: list[str], log: Path, threads: int) -> None:
    """Runs a script as the interpreter does, and ends this process with its exit code."""
    import torch

    os.environ |= {"OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled"}
    torch.set_num_threads(threads)
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    for stream in (1, 2):  # as file descriptors, because handlers of loggers keep the previous streams
        os.dup2(sys.stdout.fileno(), stream)
    os.chdir(ROOT)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def wait(what: str, logs: list[Path], processes: list[BaseProcess], steps: int) -> float:
    """Shows the progress of the processes until they end; returns the seconds.

    Raises:
        SystemExit: a process failed; the end of its log is printed.
    """
    began = time.monotonic()
    try:
        with console.status(what) as status:
            while any(process.is_alive() for process in processes):
                time.sleep(1)
                found = re.findall(r"(?:step |global step |step=)(\d+)", _text(logs[0]))
                done = f", step {found[-1]} of {steps}" if found else ", starting"
                status.update(Text(f"{what}{done}, {time.monotonic() - began:.0f} s"))
    finally:
        for process in processes:
            process.terminate()  # after Ctrl-C; without effect on a process that has ended
            process.join()
    for log, process in zip(logs, processes, strict=True):
        if process.exitcode != 0:
            console.print(f"{what} failed; the end of {log}:", style="red")
            console.print("\n".join(_text(log).splitlines()[-25:]), markup=False)
            sys.exit(1)
    seconds = time.monotonic() - began
    console.print(f"{what}: {seconds:.0f} s")
    return seconds


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


def last_lines(summary: dict, page: Path) -> list[str]:
    """Returns the last lines of the demo: the page, the result, and the next steps with the user's audio."""
    cer = {model: summary[model]["cer"] for model in ("pretrained", "scratch")}
    alarms = len(summary["alarms"])
    result = (
        f"CER {cer['pretrained']:.1%} pretrained, {cer['scratch']:.1%} from scratch, in {summary['seconds']} s; pretraining "
        f"{summary['status']}, {alarms or 'no'} alarm{'' if alarms == 1 else 's'}"
    )
    if cer["pretrained"] >= cer["scratch"]:
        result += ". Minutes of pretraining on minutes of audio do not always beat training from scratch"
    return [
        f"report  {page}",
        f"result  {result}",
        "next    your own audio: birq make-shards folder AUDIO --out SHARDS, then birq pretrain, as README.md shows",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo_out", help="folder for the runs (default demo_out)")
    parser.add_argument("--pretrain-steps", type=int, default=450, help="steps with 30 s of audio each (default 450)")
    parser.add_argument("--finetune-steps", type=int, default=250, help="steps with 30 s of audio each (default 250)")
    args = parser.parse_args()
    out = args.out.resolve() / time.strftime("%Y-%m-%d_%H-%M-%S")
    out.mkdir(parents=True)
    began = time.monotonic()

    logs = [out / "pretrain.log"]
    half = args.pretrain_steps // 2
    run = start(
        logs[0], 2, "speech_pre_training.py", f"exp_manager.exp_dir={out}/pretrain",
        f"trainer.max_steps={args.pretrain_steps}", f"trainer.val_check_interval={half}",
    )  # fmt: skip
    wait("pretraining on 21 minutes of unlabelled audio", logs, [run], args.pretrain_steps)
    nemo = next((out / "pretrain").rglob("*.nemo"))

    models = {"pretrained": "false", "scratch": "true"}
    logs = [out / f"finetune_{model}.log" for model in models]
    runs = [
        start(
            log, 1, "speech_to_text_finetune.py", f"init_from_nemo_model={nemo}", f"from_scratch={from_scratch}",
            f"test_manifests={CORPUS}/test/test.json", f"exp_manager.exp_dir={out}/{model}", "trainer.precision=32",
            f"trainer.max_steps={args.finetune_steps}", f"trainer.limit_train_batches={args.finetune_steps}",
            "model.train_ds.batch_duration=30", "model.train_ds.num_workers=0", "model.spec_augment.time_masks=5",
            "model.optim_param_groups.encoder.lr=1e-3", "freeze_encoder=0", "trainer.log_every_n_steps=10",
        )
        for log, (model, from_scratch) in zip(logs, models.items(), strict=True)
    ]  # fmt: skip
    wait("fine-tuning it, and the same model from scratch, side by side", logs, runs, args.finetune_steps)

    logged = scalars(out / "pretrain")
    (pretraining,) = read_runs([f"pretraining={nemo.parents[1]}"])
    with console.status("drawing the report"):
        page = write_report([pretraining], out / "report", lambda title: None)
    summary = {
        "pretraining": {
            name.removeprefix("train_"): (values[0][1], values[-1][1])
            for name, values in logged.items()
            if name.startswith("train_")
        },
        "status": pretraining.status,
        "alarms": pretraining.alarms,
        "seconds": round(time.monotonic() - began),
    }
    for model in models:
        score = json.loads(next((out / model).rglob("scores/test.json")).read_text())
        summary[model] = {"cer": score["cer"], "wer": score["wer"], "examples": score["utterances"][:3]}
    (out / "summary.json").write_text(json.dumps(summary, indent=1))

    console.print()
    for line in last_lines(summary, page):
        console.print(line, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
