"""Real servers on this machine for remote data: S3 by moto, and HTTP with ranges; with faults that tests put in between."""

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from werkzeug.exceptions import NotFound, RequestedRangeNotSatisfiable
from werkzeug.security import safe_join
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import send_file
from werkzeug.wrappers import Request, Response

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
        self.app, self.requests = app, 0
        self.latency = 0.0
        """Seconds before each answer."""
        self.failing = 0
        """Requests, from now on, that are answered with 503."""
        self.cut = 0
        """Answers, from now on, that break off in the middle."""
        self.status: int | None = None
        """Status of all answers, such as 403."""
        self.stopped_until = 0.0
        """Time (``time.monotonic``) before which the server answers nothing and closes the connection."""

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        self.requests += 1
        time.sleep(self.latency)
        if time.monotonic() < self.stopped_until:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError
        if self.status or self.failing:
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
