"""From unlabelled audio to a recognizer in minutes, on the embedded corpus: what `make demo` runs.

1. Pretrains birq_conformer_tiny on the tar shards in tarred_manifests/ and writes a .nemo.
2. Fine-tunes it with CTC through NeMo's own classes, and beside it the same model from scratch.
3. Transcribes the test utterances with both and prints a summary.
4. Writes the report of the pretraining, a page with its curves (scripts/report.py).

Each run gets a folder of its own under demo_out/, with logs, checkpoints, the report and summary.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from rich.table import Table
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
    "trainer.enable_progress_bar=false",
]
console = Terminal()


def start(log: Path, threads: int, script: str, *overrides: str) -> subprocess.Popen:
    """Starts a script of this folder with its output in a file."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "scripts" / script), *TRAIN, *overrides]
    if script == "speech_pre_training.py":
        command.insert(2, "--config-name=birq_conformer_tiny")
    return subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT, env=env, cwd=ROOT)


def wait(what: str, logs: list[Path], processes: list[subprocess.Popen], steps: int) -> float:
    """Shows how far the processes are until they end; gives the seconds.

    Raises:
        SystemExit: one of them failed; the end of its log is printed.
    """
    began = time.monotonic()
    with console.status(what) as status:
        while any(process.poll() is None for process in processes):
            time.sleep(1)
            found = re.findall(r"(?:step |global step |step=)(\d+)", logs[0].read_text(errors="replace"))
            done = f", step {found[-1]} of {steps}" if found else ", starting"
            status.update(Text(f"{what}{done}, {time.monotonic() - began:.0f} s"))
    for log, process in zip(logs, processes, strict=True):
        if process.returncode != 0:
            console.print(f"{what} failed; the end of {log}:", style="red")
            console.print("\n".join(log.read_text(errors="replace").splitlines()[-25:]))
            sys.exit(1)
    seconds = time.monotonic() - began
    console.print(f"{what}: {seconds:.0f} s")
    return seconds


def summary_table(summary: dict) -> Table:
    """The numbers that a reader looks for first."""
    table = Table(title="BiRQ demo", show_header=True, header_style="bold")
    for column in ("", "start", "end"):
        table.add_column(column, justify="left" if not column else "right")
    for task in ("anchor", "enhanced"):
        for name in ("loss", "unigram_entropy", "accuracy", "perplexity", "normalized_entropy"):
            values = summary["pretraining"][f"{task}_{name}"]
            table.add_row(f"{task} {name.replace('_', ' ')}", *(f"{value:.3g}" for value in values))
    table.add_row("selection agreement", *(f"{v:.3g}" for v in summary["pretraining"]["selection_agreement"]))
    table.add_section()
    table.add_row(Text("test set", style="bold"), "pretrained", "from scratch")
    for measure in ("cer", "wer"):
        table.add_row(measure.upper(), *(f"{summary[model][measure]:.1%}" for model in ("pretrained", "scratch")))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "demo_out", help="folder for the runs (default demo_out)")
    parser.add_argument("--pretrain-steps", type=int, default=450, help="of 30 s of audio (default 450)")
    parser.add_argument("--finetune-steps", type=int, default=250, help="of 30 s of audio (default 250)")
    args = parser.parse_args()
    out = args.out / time.strftime("%Y-%m-%d_%H-%M-%S")
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

    console.print(summary_table(summary))
    for example in summary["pretrained"]["examples"]:
        console.print(f"said  {example['text']}\nheard {example['hypothesis']}", style="dim")
    if summary["pretrained"]["cer"] >= summary["scratch"]["cer"]:
        console.print(
            "Every part works; minutes of pretraining on minutes of audio are too few to beat training from scratch."
        )
    console.print(
        f"The pretraining was {summary['status']}, {len(summary['alarms'])} alarm(s). {summary['seconds']} s in all."
    )
    console.print(f"encoder  {nemo}\nreport   {page}\nnumbers  {out / 'summary.json'}", soft_wrap=True)


if __name__ == "__main__":
    main()
