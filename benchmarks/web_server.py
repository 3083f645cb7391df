"""A web server for benchmarks. It keeps connections like object stores, delays each answer, and fails a share of requests.

    python -m benchmarks.web_server /data/shards --latency 0.05 --failing 0.05

The command prints its URL, and ends when its standard input does. The server of the tests instead closes each connection
after one answer.
"""

import argparse
import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def serve(folder: Path, latency: float, failing: float) -> None:
    """Serves a folder until the standard input ends.

    Args:
        latency: seconds before each answer.
        failing: share of requests that are answered with 503.
    """
    rng = random.Random(0)

    @web.middleware
    async def late(request: web.Request, handler: Handler) -> web.StreamResponse:
        await asyncio.sleep(latency)
        return web.Response(status=503) if rng.random() < failing else await handler(request)

    app = web.Application(middlewares=[late])
    app.router.add_static("/", folder)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--failing", type=float, default=0.0, help="share of requests that are answered with 503")
    args = parser.parse_args()
    asyncio.run(serve(args.folder, args.latency, args.failing))


if __name__ == "__main__":
    main()
