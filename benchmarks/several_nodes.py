"""Trainings on two nodes, which are two process groups with separate folders and caches on one machine.

    python benchmarks/several_nodes.py [--what equal dies] [--ranks 1 2]

examples/torchrun/pretrain.sh starts each node with the tiny model. The benchmark compares every logged number and weight of
two nodes with one rank each, from copies of the shards and from an HTTP server, with those of one node with two ranks. Then
it kills a node in the middle of an epoch, resumes with one node, and counts which utterances the weights have seen at the
end of the epoch. The result is docs/results/several_nodes.json.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]
NAME = "nodes"
STEPS = 12
CHECKPOINT, DEATH = 10, 16  # steps
SHARDS = ("sharded_manifests/manifest__OP_0..3_CL_.json", "audio__OP_0..3_CL_.tar")
NOT_COMPARED = re.compile("hours_per_hour|mfu|memory|per_second|timing|wait|padding")
SETTINGS = (
    "--config-name=birq_conformer_tiny", f"name={NAME}", "model.encoder.n_layers=2", "model.encoder.d_model=32",
    "model.encoder.subsampling_conv_channels=8", "model.train_ds.batch_duration=20", "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false", "+trainer.enable_model_summary=false", "trainer.log_every_n_steps=1",
    "+trainer.limit_val_batches=1", "enhanced_start_step=2", "enhanced_ramp_steps=4",
)  # fmt: skip


class Node(NamedTuple):
    """A simulated machine."""

    folder: Path
    """Folder of its cache, and of the record of the batches of its ranks."""
    data: str
    """Folder or URL of its shards."""

    def start(self, number: int, nodes: int, ranks: int, port: int, experiments: Path, settings: tuple[str, ...]):
        self.folder.mkdir(parents=True, exist_ok=True)
        recorder = self.folder / "birq"  # the script starts this command, which also records its batches
        recorder.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" --record "$@"\n')
        recorder.chmod(0o755)
        environment = os.environ | {
            "NNODES": str(nodes), "NODE_RANK": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "DEVICES": str(ranks), "NEMO_BIRQ_CACHE": str(self.folder / "cache"), "PYTHONPATH": str(ROOT),
            "PATH": f"{self.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}", "RECORD": str(self.folder),
        }  # fmt: skip
        manifests, tars = (f"{self.data}/train/{name}" for name in SHARDS)
        validation = f"{self.data}/validation/validation.json"
        command = ["bash", str(ROOT / "examples/torchrun/pretrain.sh"), *SETTINGS, *settings]
        command += [f"model.train_ds.manifest_filepath={manifests}", f"model.train_ds.tarred_audio_filepaths={tars}"]
        command += [f"model.validation_ds.manifest_filepath={validation}", f"exp_manager.exp_dir={experiments}"]
        with open(self.folder / "log.txt", "a") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )


def record() -> None:
    """Runs the command as it is, and writes step and utterances of each batch of a rank to a file."""
    from nemo_birq.cli import main
    from nemo_birq.model import BiRQModel

    step = BiRQModel.training_step
    file = open(Path(os.environ["RECORD"]) / f"batches_{os.environ['RANK']}.jsonl", "a")  # noqa: SIM115

    def recorded(model, batch, *rest):
        file.write(json.dumps([model.trainer.global_step, batch.ids]) + "\n")
        file.flush()
        return step(model, batch, *rest)

    BiRQModel.training_step = recorded
    sys.argv = ["birq", *sys.argv[2:]]
    sys.exit(main())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(nodes: list[Node], ranks: int, experiments: Path, *settings: str) -> list[subprocess.Popen]:
    port = free_port()
    return [node.start(number, len(nodes), ranks, port, experiments, settings) for number, node in enumerate(nodes)]


def train(nodes: list[Node], ranks: int, experiments: Path, *settings: str) -> float:
    """Trains to the end; returns the seconds."""
    began = time.perf_counter()
    for node, process in zip(nodes, start(nodes, ranks, experiments, *settings), strict=True):
        if process.wait():
            raise SystemExit(f"{node.folder} failed:\n{(node.folder / 'log.txt').read_text()[-3000:]}")
    return time.perf_counter() - began


def numbers(experiments: Path) -> dict[str, float]:
    """Returns each logged number by name and step."""
    from nemo_birq.report.events import read_events

    return {
        f"{tag} at {point.step}": point.value
        for file in read_events(experiments)
        for tag, points in file.items()
        for point in points
        if not NOT_COMPARED.search(tag)
    }


def weights(experiments: Path) -> dict:
    import torch

    (path,) = experiments.rglob("*last.ckpt")
    return torch.load(path, map_location="cpu", weights_only=True)["state_dict"]


def compare(first: Path, second: Path) -> dict:
    """Compares logged numbers and weights of two trainings."""
    import torch

    (one, other), (ours, theirs) = map(numbers, (first, second)), map(weights, (first, second))
    differ = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    return {
        "numbers": len(one),
        "numbers_that_differ": sorted(differ)[:10],
        "losses": [value for name, value in one.items() if name.startswith("train_loss ")],
        "weights": len(ours),
        "weights_that_differ": sum(not torch.equal(ours[name], theirs[name]) for name in ours),
    }


def batches(node: Node) -> Iterator[tuple[int, list[str]]]:
    for path in node.folder.glob("batches_*.jsonl"):
        yield from (json.loads(line) for line in path.read_text().splitlines())


def kill_a_node(folder: Path, data: str, ranks: int) -> dict:
    """Trains on two nodes, kills the second one after a checkpoint, and resumes with one rank."""
    nodes = [Node(folder / f"node{number}", data) for number in (0, 1)]
    every = f"trainer.val_check_interval={CHECKPOINT}"
    processes = start(nodes, ranks, folder / "experiments", every, "trainer.max_steps=1000")
    while max((step for step, _ in batches(nodes[1])), default=0) < DEATH:
        if any(process.poll() is not None for process in processes):
            raise SystemExit((nodes[0].folder / "log.txt").read_text()[-3000:])
        time.sleep(0.05)
    node = psutil.Process(processes[1].pid)
    for process in [node, *node.children(recursive=True)]:
        process.kill()
    began = time.perf_counter()
    code = processes[0].wait(timeout=600)
    noticed = time.perf_counter() - began
    alone = Node(folder / "node2", data)
    batches_of_epoch = int(re.search(r"in (\d+) batches", (nodes[0].folder / "log.txt").read_text())[1])
    steps = CHECKPOINT + batches_of_epoch - 2 * ranks * CHECKPOINT + 2  # over the end of the epoch
    train([alone], 1, folder / "experiments", every, f"trainer.max_steps={steps}")
    log = (alone.folder / "log.txt").read_text()
    epoch, done, planned = map(int, re.search(r"continue in epoch (\d+) after batch (\d+) of (\d+)", log).groups())
    first_steps = CHECKPOINT + planned - done
    before = [ids for node in nodes for step, ids in batches(node) if step < CHECKPOINT]
    lost = [ids for node in nodes for step, ids in batches(node) if step >= CHECKPOINT]
    after = [ids for step, ids in batches(alone) if step < first_steps]
    seen = Counter(name for ids in before + after for name in ids)
    return {
        "ranks_before": 2 * ranks,
        "ranks_after": 1,
        "checkpoint_at_step": CHECKPOINT,
        "steps_lost": max(step for node in nodes for step, _ in batches(node)) + 1 - CHECKPOINT,
        "epoch": epoch,
        "batches_of_the_epoch": planned,
        "utterances_of_the_epoch": len(seen),
        "in_the_weights": dict(Counter(seen.values())),
        "computed_and_lost": sum(map(len, lost)),
        "survivor_ended_after_s": round(noticed, 1),
        "survivor_exit_code": code,
        "survivor_said": re.findall(r"Error: (?:\[/\S*\] )?(.*?)\. ", (nodes[0].folder / "log.txt").read_text())[0],
    }


def compare_nodes(folder: Path, corpus: Path) -> dict:
    """Trains on one node, on two nodes with copies of the shards, and on two that read from a server."""
    from tests.helpers.stores import http_store

    short = (f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS // 2}")
    copies = [folder / f"copy{number}" for number in (0, 1)]
    for copy in copies:
        shutil.copytree(corpus, copy)
    train([Node(folder / "one", str(corpus))], 2, folder / "one/experiments", *short)
    two = [Node(folder / f"two{number}", str(copy)) for number, copy in enumerate(copies)]
    train(two, 1, folder / "two/experiments", *short)
    with http_store(corpus) as (_, url):
        train([Node(folder / f"http{number}", url) for number in (0, 1)], 1, folder / "http/experiments", *short)
    kinds = {"copies": "two", "http": "http"}
    return {kind: compare(folder / "one/experiments", folder / name / "experiments") for kind, name in kinds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=("equal", "dies"), default=["equal", "dies"])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="ranks of each node if one is killed")
    args = parser.parse_args()
    target = ROOT / "docs/results/several_nodes.json"
    result = json.loads(target.read_text()) if target.is_file() else {}
    result["command"] = "python benchmarks/several_nodes.py"
    corpus = ROOT / "tarred_manifests"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if "equal" in args.what:
            result["two_nodes"] = compare_nodes(folder, corpus)
        if "dies" in args.what:
            result["a_node_dies"] = [kill_a_node(folder / f"killed{ranks}", str(corpus), ranks) for ranks in args.ranks]
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    record() if "--record" in sys.argv else main()
