"""Runs all tests and measurements that need a GPU, within a lease of ten minutes.

    make gpu-day                                         # python benchmarks/gpu_day.py
    python benchmarks/gpu_day.py --minutes 25            # more of the parts at the end
    python benchmarks/gpu_day.py --devices 2             # several GPUs: trainings under torchrun against one GPU
    python benchmarks/gpu_day.py --device cpu --small    # the same commands in miniature

Each part is a process with a time limit. The most important parts come first, beginning with correctness. The result of a
part is a file in the folder. day.json, which is written after each part, has the status of each. If a lease ends early, the
same command continues with the parts that are not done, and repeats those that have failed.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("model.encoder.n_layers=2", "model.encoder.d_model=32", "model.birq.quantizer.num_codes=16")
LEAST_SECONDS = 15  # time that must be left to begin a part
PACKAGES = ("torch", "nemo_toolkit", "lightning", "lhotse", "triton")
DONE = "done"


class Part(NamedTuple):
    """A command and the seconds that it may take."""

    name: str
    command: list[str]
    limit: int


def benchmark(script: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "benchmarks" / script), *arguments]


def parts_of(args: argparse.Namespace) -> list[Part]:
    """Lists the parts in their order."""
    cuda, out = args.device == "cuda", args.out
    device = ("--device", args.device)
    precision = ("--precision", "bf16-mixed" if cuda else "32")

    def sized(script: str, name: str, config: str, seconds: int, *more: str) -> list[str]:
        chosen = ("--config", "birq_conformer_tiny" if args.small else config)
        audio = ("--batch-seconds", "3" if args.small else str(seconds))
        overrides = SMALL if args.small else ()
        files = ("--out", str(out / f"{name}.json"))
        return benchmark(script, *overrides, *device, *precision, *chosen, *audio, *files, *more)

    def step(name: str, config: str, *variants: str) -> Part:
        more = ["--variants", *variants, "--picture", str(out / f"{name}.png")]
        more += ["--rounds", "1" if args.small else "8", *(["--fill"] if cuda and not args.small else [])]
        more += ["--utterance-seconds", "1.5"] if args.small else []
        return Part(name, sized("step.py", name, config, 600, *more), 150)

    def training(name: str, config: str, seconds: int, devices: int) -> Part:
        more = ["--devices", str(devices), "--steps", "4" if args.small else "60"]
        more += ["--workers", "0"] if args.small else ["--workers", "4"]
        return Part(name, sized("training_speed.py", name, config, seconds, *more), 150)

    environment = Part("environment", benchmark("gpu_day.py", "--environment", str(out / "environment.json"), *device), 60)
    if args.devices > 1:
        return [
            environment,
            *(training(f"training_155m_{n}", "birq_conformer_155m", 480, n) for n in (1, args.devices)),
            *(training(f"training_large_{n}", "birq_conformer_large", 480, n) for n in (args.devices, 1)),
        ]
    few = ["--rounds", "1", "--utterance-seconds", "1.5"] if args.small else ["--rounds", "8"]
    profiled = few[2:]
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", "tests/gpu",
             f"--junitxml={out / 'tests.xml'}", *(["-k", "fused"] if args.small else [])]  # fmt: skip
    return [
        environment,
        Part("tests", tests, 180),
        step("step_large", "birq_conformer_large", "stock BEST-RQ", "BiRQ", "floor"),
        training("training_large", "birq_conformer_large", 480, 1),
        Part("profile_large", sized("step_profile.py", "profile_large", "birq_conformer_large", 480, *profiled), 90),
        Part("levers_large", sized("levers.py", "levers_large", "birq_conformer_large", 240, *few), 180),
        step("step_155m", "birq_conformer_155m", "stock BEST-RQ", "BiRQ", "floor"),
        step("step_275m", "birq_conformer_275m", "BEST-RQ", "BiRQ"),
        step("step_fastconformer", "birq_fastconformer_large", "stock BEST-RQ", "BiRQ"),
        training("training_155m", "birq_conformer_155m", 480, 1),
        Part("levers_155m", sized("levers.py", "levers_155m", "birq_conformer_155m", 240, *few), 180),
        Part("startup", benchmark("startup.py", "--rounds", "1", "--out", str(out / "startup.json")), 180),
    ]


def run_part(part: Part, seconds: float, log: Path) -> tuple[str, float]:
    """Runs a part in a separate process group, with its output in a file.

    Returns:
        ``done``, ``failed with status N`` or ``stopped after N s``, and the seconds that it took.
    """
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(part.command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment_of(),
                                   start_new_session=True)  # fmt: skip
        try:
            status = process.wait(timeout=seconds)
            how = DONE if status == 0 else f"failed with status {status}"
        except subprocess.TimeoutExpired:
            how = f"stopped after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return how, time.monotonic() - began


def environment_of() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": path, "WANDB_MODE": "disabled", "PYTHONUNBUFFERED": "1"}


def check_environment(device: str) -> dict:
    """Describes the machine.

    Raises:
        ValueError: a GPU is requested, but there is none.
    """
    import torch

    from nemo_birq.utils.device_speed import matrix_product_flops

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here (torch.cuda.is_available() is False)")
    found = {"python": platform.python_version(), "cores": os.cpu_count()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16} | ({"float16": torch.float16} if device == "cuda" else {})
    found["flops"] = {name: matrix_product_flops(torch.device(device), dtype) for name, dtype in kinds.items()}
    if device == "cuda":
        gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
        found |= {
            "gpus": [{"name": gpu.name, "memory_gb": gpu.total_memory / 1e9} for gpu in gpus],
            "cuda": torch.version.cuda,
            "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
            "nccl": ".".join(map(str, torch.cuda.nccl.version())),
            "compiler": shutil.which("gcc") or shutil.which("cc"),
        }
    return found


def write(path: Path, content: dict) -> None:
    """Writes JSON completely or not at all, without the package, which may be broken."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.5, help="minutes for all parts together (default 9.5)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument(
        "--devices", type=int, default=1, help="number of GPUs; with 2 or more, only their trainings are run (default 1)"
    )
    parser.add_argument("--small", action="store_true", help="small models and batches, to try the commands")
    parser.add_argument("--parts", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--out", type=Path, default=ROOT / "gpu_day", help="folder of the results (default gpu_day)")
    parser.add_argument("--environment", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.environment:
        try:
            write(args.environment, check_environment(args.device))
        except ValueError as error:
            parser.error(str(error))
        return
    args.out = args.out.resolve()
    parts = parts_of(args)
    unknown = set(args.parts or ()) - {part.name for part in parts}
    if unknown:
        parser.error(f"--parts {' '.join(sorted(unknown))}: unknown; there are {', '.join(part.name for part in parts)}")
    args.out.mkdir(parents=True, exist_ok=True)
    sys.exit(run_all([part for part in parts if not args.parts or part.name in args.parts], args.out, 60 * args.minutes))


def run_all(parts: list[Part], out: Path, seconds: float) -> int:
    """Runs the parts that are not done yet, one after another.

    Returns:
        0 if all are done, otherwise 1.
    """
    day, ends = out / "day.json", time.monotonic() + seconds
    found = json.loads(day.read_text()) if day.exists() else {}
    for part in parts:
        left = ends - time.monotonic()
        if found.get(part.name, {}).get("status") == DONE:
            print(f"{part.name}: done before", flush=True)
            continue
        if left < LEAST_SECONDS:
            found[part.name] = {"status": "not begun: no time left"}
        else:
            status, took = run_part(part, min(part.limit, left), out / f"{part.name}.log")
            found[part.name] = {"status": status, "seconds": round(took, 1), "command": part.command[1:]}
        print(f"{part.name}: {found[part.name]['status']}, {found[part.name].get('seconds', 0)} s", flush=True)
        write(day, found)
        if part.name == "environment" and found[part.name]["status"].startswith("failed"):
            print((out / f"{part.name}.log").read_text()[-2000:])
            return 1
    return int(any(found[part.name]["status"] != DONE for part in parts))


if __name__ == "__main__":
    main()
