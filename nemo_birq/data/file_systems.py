"""The fsspec file systems of URLs, one for all threads of a process, and signed URLs of S3 objects.

Credentials and further options come from where fsspec and the libraries of the stores look for them. They stay in memory.
"""

import logging
import os
import time
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import fsspec

from nemo_birq.utils.urls import without_secrets

SILENCE = 30.0
"""Seconds without a byte after which an HTTP request has failed. The libraries of the stores have limits of their own."""
CONNECTIONS = 64
"""Parallel requests to S3 of one process. The library's default of 10 is fewer than a batch has utterances."""
S3 = ("s3", "s3a")
VALID = 7200
"""Seconds for which a signed URL is valid."""
REUSED = 3600.0
"""Seconds after which an object gets a new signed URL."""
REFUSALS = 3
"""Consecutive refusals of signed URLs after which a process no longer signs URLs of this bucket."""
_KEPT = 1 << 14
"""Signed URLs that a process keeps; each needs about 0.5 kB."""
_DIRECTORY = "--x-s3"  # ends the names of directory buckets, which need sessions in place of signatures

_systems: dict[tuple[str, ...], fsspec.AbstractFileSystem] = {}
_signed: dict[str, tuple[float, str]] = {}
_refused: dict[str, int] = {}
_opening = Lock()

logging.getLogger("aiobotocore").setLevel(logging.WARNING)  # otherwise each worker logs where it finds credentials


class Opened(NamedTuple):
    """A file system and the path of a file in it."""

    system: fsspec.AbstractFileSystem
    path: str


def open_system(url: str) -> Opened:
    """Returns the file system of a URL, one for all threads of a process, and the path in it.

    fsspec itself keeps a file system for each thread, so that short-lived threads would all open connections of their own.

    Raises:
        ValueError: no installed package reads such URLs, or the credentials are missing.
    """
    parts = urlsplit(url)
    protocol = parts.scheme.lower()
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        options = _http_options(protocol)
    elif protocol in S3:
        options = _s3_options(protocol)
    system = _kept_system((protocol, parts.netloc), url, options)
    return Opened(system, system._strip_protocol(url))


def open_signed(url: str) -> Opened | None:
    """Returns a signed HTTP URL of an S3 object, and the file system that reads it.

    A GET of a signed URL needs half the processor time of a call through botocore, which resolves, validates, signs and
    parses each request.

    Returns:
        The URL and its file system; None for URLs of other stores, for buckets that refused signed URLs, and where the
        configuration adds headers to the requests.
    """
    parts = urlsplit(url)
    protocol = parts.scheme.lower()
    if protocol not in S3 or parts.netloc.endswith(_DIRECTORY) or _refused.get(parts.netloc, 0) >= REFUSALS:
        return None
    now = time.monotonic()
    until, signed = _signed.get(url, (0.0, ""))
    if until <= now:
        options = _s3_options(protocol)
        options["config_kwargs"].setdefault("signature_version", "s3v4")  # the default of some stores is version 2
        signer = _kept_system((protocol, parts.netloc, "signed"), url, options)
        if signer.req_kw or signer.s3_additional_kwargs:
            return None
        try:
            signed = signer.sign(signer._strip_protocol(url), expiration=VALID)
        except Exception:  # a request through the library fails in the same way, and its error has the hints
            return None
        with _opening:
            while len(_signed) >= _KEPT:
                del _signed[next(iter(_signed))]
            _signed[url] = now + REUSED, signed
    protocol = signed.partition("://")[0]
    return Opened(_kept_system((protocol, "signed"), signed, _http_options(protocol) | {"encoded": True}), signed)


def count_signed(url: str, refused: bool) -> None:
    """Counts an answer to a signed URL: the object gets a new one after a refusal, and its bucket none after several.

    Args:
        url: URL of the object.
        refused: the store refused the signed URL and answered a request through its library.
    """
    bucket = urlsplit(url).netloc
    if refused:
        _signed.pop(url, None)
        _refused[bucket] = _refused.get(bucket, 0) + 1
    else:
        _refused.pop(bucket, None)


def _kept_system(key: tuple[str, ...], url: str, options: dict[str, Any]) -> fsspec.AbstractFileSystem:
    with _opening:
        system = _systems.get(key)
        if system is None or type(system)._cache.get(system._fs_token) is not system:  # fsspec has dropped it
            system = _systems[key] = _new_system(url, options)
    return system


def _forget_systems() -> None:
    """Makes a forked process open file systems of its own. Another thread of the parent may have held the lock."""
    global _opening
    _opening = Lock()
    _systems.clear()


os.register_at_fork(after_in_child=_forget_systems)


def _http_options(protocol: str) -> dict[str, Any]:
    from aiohttp import ClientTimeout

    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    own = {
        "timeout": ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE),
        "headers": {"Accept-Encoding": "identity"},
        "trust_env": bool(getproxies()) or netrc.is_file(),  # aiohttp would look for both at each request, in a thread
    }
    return {"client_kwargs": own | fsspec.config.conf.get(protocol, {}).get("client_kwargs", {})}


def _s3_options(protocol: str) -> dict[str, Any]:
    pool = {"max_pool_connections": CONNECTIONS}
    return {"config_kwargs": pool | fsspec.config.conf.get(protocol, {}).get("config_kwargs", {})}


def _new_system(url: str, options: dict[str, Any]) -> fsspec.AbstractFileSystem:
    try:
        fsspec.get_filesystem_class(urlsplit(url).scheme.lower())
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"no installed package reads {without_secrets(url)} ({error}): pip install 'nemo_birq[s3]' for s3://, "
            "'nemo_birq[gcs]' for gs://, 'nemo_birq[azure]' for abfs://, or the fsspec file system of other stores"
        ) from error
    try:
        return fsspec.url_to_fs(url, **options)[0]
    except ValueError as error:
        raise ValueError(
            f"{without_secrets(url)} cannot be opened ({without_secrets(error)}): set the credentials that the library of "
            "the store needs"
        ) from error
