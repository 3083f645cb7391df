"""Repetition of requests to a store while their error is transient, and error messages without secrets."""

import errno
import logging
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from nemo_birq.utils.files import DISK_FULL
from nemo_birq.utils.terminal import printable
from nemo_birq.utils.urls import without_secrets

Result = TypeVar("Result")
LOG = logging.getLogger("nemo_logger")  # NeMo's logger by its name, because shards are verified without NeMo
LONGEST_PAUSE = 15.0  # seconds between two attempts
QUIET_TRIES = 2  # failures without a line in the log, because single failures are normal among thousands of requests
PASSING_STATUS = (408, 425, 429)  # transient HTTP status codes from 400 to 499
FINAL_NUMBERS = (errno.EINVAL, errno.EPERM, errno.EACCES, errno.ENOSYS, *DISK_FULL)
FINAL = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotImplementedError, ImportError,
         ValueError, TypeError, AttributeError)  # fmt: skip
MISSING = "the object does not exist: compare the names of bucket, folder and file"
REFUSED = (
    "the store refuses access: check that its tools find credentials, that they have not expired and may {verb} the "
    "object, and that the clock of this machine is right"
)
NO_RANGES = "the server does not answer requests for byte ranges: use another server, or copy the file"
_DONE = {"read": "read", "write": "written"}
SHORTER = "the file is shorter than when its index was built, so it was replaced: run the command again for a new index"


class RemoteError(OSError):
    """A remote file that cannot be read, or has been replaced."""


class RequestError(Exception):
    """One failed request of several.

    Args:
        url: URL of the file.
        reason: error of the file system.
    """

    def __init__(self, url: str, reason: BaseException):
        super().__init__(url)
        self.url, self.reason = url, reason


class NoRangesError(NotImplementedError):
    """An answer that is longer than the requested range."""


class ShorterFileError(ValueError):
    """A complete answer that is shorter than the requested range."""


def repeat(url: str, patience: float, action: Callable[[], Result], verb: str = "read") -> Result:
    """Repeats a request until it succeeds, with random pauses that grow.

    Args:
        url: URL of the file, for messages.
        patience: seconds after which the last error is final.
        action: the request.
        verb: ``read`` or ``write``, for messages.

    Returns:
        The result of the request.

    Raises:
        RemoteError: the error is not transient, or lasts longer than ``patience``.
    """
    tries = Retrying(
        retry=retry_if_exception(may_pass),
        stop=stop_before_delay(patience),
        wait=wait_random_exponential(0.2, max=LONGEST_PAUSE),
        before_sleep=lambda state: _say(url, patience, state, verb),
        reraise=True,
    )
    try:
        return tries(action)
    except Exception as error:
        waited = f"the request was repeated for {patience:.0f} s: check address, network and server"
        hint = waited if may_pass(error) else _hint(error, verb)
        raise RemoteError("; ".join(filter(None, (_words(url, error, verb), hint)))) from error


def may_pass(error: BaseException) -> bool:
    """Tests if the same request may succeed later; refusals and errors of the request itself do not pass."""
    reason = _reason(error)
    if (status := _status(reason)) is not None:
        return status >= 500 or status in PASSING_STATUS
    if isinstance(reason, FINAL) or getattr(reason, "errno", None) in FINAL_NUMBERS:
        return False
    kinds = {kind.__name__ for kind in type(reason).__mro__}  # by name, because botocore may not be installed
    return "BotoCoreError" not in kinds or bool(kinds & {"HTTPClientError", "ConnectionError", "IncompleteReadError"})


def is_missing(error: RemoteError) -> bool:
    """Tests if the store answered that the file does not exist."""
    reason = _reason(error.__cause__ or error)
    status = _status(reason)
    return isinstance(reason, FileNotFoundError) if status is None else status == 404


def _reason(error: BaseException) -> BaseException:
    """Returns the error of the server or the connection; fsspec replaces some by FileNotFoundError."""
    while True:
        if isinstance(error, RequestError):
            error = error.reason
        elif isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        else:
            return error


def _status(reason: BaseException) -> int | None:
    """Returns the HTTP status of an error.

    Its place is ``status`` (aiohttp), ``code`` (gcsfs), ``status_code`` (adlfs) or ``response`` (botocore).
    """
    response = getattr(reason, "response", None) or getattr(reason.__cause__, "response", None)  # s3fs replaces some errors
    told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for status in (*(getattr(reason, name, None) for name in ("status", "code", "status_code")), told):
        if isinstance(status, int) and 400 <= status < 600:
            return status
    return None


def _hint(error: BaseException, verb: str) -> str | None:
    reason = _reason(error)
    status = _status(reason)
    if isinstance(reason, NoRangesError):
        return NO_RANGES
    if isinstance(reason, ShorterFileError) or status == 416:
        return SHORTER
    if isinstance(reason, FileNotFoundError) or status == 404:
        return MISSING
    refused = isinstance(reason, PermissionError) or status in (401, 403) or "Credentials" in type(reason).__name__
    return REFUSED.format(verb=verb) if refused else None


def _words(url: str, error: BaseException, verb: str) -> str:
    reason = _reason(error)
    name = error.url if isinstance(error, RequestError) else url
    said = ": ".join(filter(None, (type(reason).__name__, " ".join(str(reason).split()))))
    return printable(without_secrets(f"{name} cannot be {_DONE[verb]} ({said})"))


def _say(url: str, patience: float, state: RetryCallState, verb: str) -> None:
    if state.attempt_number > QUIET_TRIES:
        waited = f"{state.seconds_since_start:.0f} of {patience:.0f} s"
        LOG.warning(f"{_words(url, state.outcome.exception(), verb)}; the request is repeated ({waited})")
