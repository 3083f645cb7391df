"""Real servers on this machine for remote data, S3 by moto and HTTP with ranges, with faults on request of the tests.

    python -m tests.helpers.stores s3 /data/shards --latency 0.05 --failing 0.05

serves a folder, in the bucket ``bucket`` of S3, prints the URL of the server, and ends when its standard input does.
"""

import argparse
import random
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import pytest
from werkzeug.exceptions import NotFound, RequestedRangeNotSatisfiable
from werkzeug.security import safe_join
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

KEY_ID = "AKIAEXAMPLEKEYOFTEST"
App = Callable[[dict, Callable], Iterable[bytes]]


class _Handler(WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        pass


class Store:
    """A server with switches for its faults.

    Args:
        app: answers the requests as it should.
    """

    def __init__(self, app: App):
        self.app, self.requests, self._random = app, 0, random.Random(0)
        self.latency = 0.0
        """Seconds before each answer."""
        self.failing = 0
        """Requests, from now on, that are answered with 503."""
        self.failing_share = 0.0
        """Share of the requests, at random, that are answered with 503."""
        self.cut = 0
        """Answers, from now on, that break off in the middle."""
        self.status: int | None = None
        """Status of all answers, such as 403."""
        self.stopped_until = 0.0
        """Time (``time.monotonic``) before which the server answers nothing and closes the connection."""
        self.refusing: tuple[str, ...] = ()
        """Methods that are answered with 403."""
        self.refuse_after: int | None = None
        """Number of requests from which on all are answered with 403, as with credentials that expire."""
        self.refuse_signed = False
        """URLs with a signature are answered with 403."""
        self.signed = 0
        """Requests by URLs with a signature."""
        self.gets = 0
        """Requests for contents."""

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        self.requests += 1
        self.gets += environ["REQUEST_METHOD"] == "GET" and "list-type" not in environ["QUERY_STRING"]
        is_signed = "X-Amz-Signature" in environ["QUERY_STRING"]
        self.signed += is_signed
        time.sleep(self.latency)
        if time.monotonic() < self.stopped_until:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        expired = self.refuse_after is not None and self.requests > self.refuse_after
        if expired or environ["REQUEST_METHOD"] in self.refusing or (is_signed and self.refuse_signed):
            return Response("no", status=403)(environ, start_response)
        if self.status or self.failing or self._random.random() < self.failing_share:
            self.failing = max(0, self.failing - 1)
            return Response("no", status=self.status or 503)(environ, start_response)
        body = self.app(environ, start_response)
        if self.cut and environ["REQUEST_METHOD"] == "GET":
            self.cut -= 1
            return _half(body, environ["werkzeug.socket"])
        return body


def _half(body: Iterable[bytes], connection: socket.socket) -> Iterator[bytes]:
    whole = b"".join(body)
    yield whole[: len(whole) // 2]
    connection.shutdown(socket.SHUT_RDWR)


class _Files:
    """Files of a folder, in ranges, with an ETag of size and time."""

    def __init__(self, folder: Path, ranges: bool):
        self.folder, self.ranges = folder, ranges

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        path = safe_join(str(self.folder), Request(environ).path.lstrip("/"))
        if path is None or not Path(path).is_file():
            return NotFound()(environ, start_response)
        if not self.ranges:
            environ.pop("HTTP_RANGE", None)
        try:
            answer = send_file(path, environ, mimetype="application/octet-stream", conditional=True)
        except RequestedRangeNotSatisfiable as refusal:
            answer = refusal
        return answer(environ, start_response)


@contextmanager
def http_store(folder: Path, ranges: bool = True) -> Iterator[tuple[Store, str]]:
    """Serves the files of a folder; yields the server and its URL."""
    with _served(_Files(folder, ranges)) as (store, url):
        yield store, url


@contextmanager
def s3_store() -> Iterator[tuple[Store, str]]:
    """Serves S3 from memory; yields the server and its URL, for ``AWS_ENDPOINT_URL``."""
    from moto.server import DomainDispatcherApplication, create_backend_app

    with _served(DomainDispatcherApplication(create_backend_app)) as (store, url):
        yield store, url


@contextmanager
def s3_for_tests() -> Iterator[Store]:
    """Serves S3, with one bucket ``bucket`` for all servers of this process, and sets the environment that finds it."""
    with s3_store() as (store, url), pytest.MonkeyPatch.context() as patch:
        names = {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": KEY_ID, "AWS_SECRET_ACCESS_KEY": "hidden"}
        for name, value in (names | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(name, value)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        if not fsspec.filesystem("s3").exists("bucket"):
            fsspec.filesystem("s3").mkdir("bucket")
        yield store
        fsspec.get_filesystem_class("s3").clear_instance_cache()


@contextmanager
def _served(app: App) -> Iterator[tuple[Store, str]]:
    store = Store(app)
    server = make_server("127.0.0.1", 0, store, threaded=True, request_handler=_Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield store, f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        server.server_close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("http", "s3"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--failing", type=float, default=0.0, help="share of requests that are answered with 503")
    args = parser.parse_args()
    with http_store(args.folder) if args.kind == "http" else s3_store() as (store, url):
        if args.kind == "s3":
            fill_bucket(url, args.folder)
        store.latency, store.failing_share = args.latency, args.failing
        print(url, flush=True)
        sys.stdin.read()


def fill_bucket(url: str, folder: Path) -> None:
    """Copies the files of a folder to the bucket ``bucket`` of an S3 server."""
    system = fsspec.filesystem("s3", endpoint_url=url, key="testing", secret="testing")
    system.mkdir("bucket")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe_file(f"bucket/{path.relative_to(folder)}", path.read_bytes())


if __name__ == "__main__":
    main()
