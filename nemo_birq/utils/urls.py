"""URLs of files (``s3://bucket/audio_0.tar``): joined to names, and without the secrets that one may hold."""

import os
import re

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ACCOUNT = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/\s'\"@]*)@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s'\"?]*)\?[^\s'\"<>]+")
_HIDDEN = "***"


def is_url(path: str | os.PathLike) -> bool:
    """Tests if a path is a URL; other paths are files of this machine."""
    return _URL.match(str(path)) is not None


def absolute(path: str) -> str:
    """Returns the absolute path of a file of this machine; a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)


def join(folder: str, name: str) -> str:
    """Returns the path of a file that is named relative to a folder, which may be a URL, or by itself."""
    if is_url(name):
        return name
    name = os.path.expanduser(name)
    if is_url(folder) and not os.path.isabs(name):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, name)


def folder_of(path: str) -> str:
    """Returns the folder of a file, absolute."""
    return path.rpartition("/")[0] if is_url(path) else os.path.dirname(os.path.abspath(path))


def without_secrets(text: object) -> str:
    """Returns a text, such as the message of an error, with ``***`` for user, password and query of each URL in it."""
    hidden = _ACCOUNT.sub(lambda found: f"{found[1]}{_HIDDEN}@" if _is_secret(found[1], found[2]) else found[0], str(text))
    return _QUERY.sub(rf"\1?{_HIDDEN}", hidden)


def find_secret_problem(path: str) -> str | None:
    """Returns why a URL may hold a secret, and what to do; None for all other paths."""
    if without_secrets(path) == path or not is_url(path):
        return None
    return (
        f"{without_secrets(path)} is a URL with an account or a query, such as a signature or a token: configurations, "
        "logs, indexes and models would keep it. Leave that part out; credentials belong where the store's own tools look "
        "for them: ~/.aws/credentials, GOOGLE_APPLICATION_CREDENTIALS, or ~/.netrc for https"
    )


def _is_secret(scheme: str, account: str) -> bool:
    """Tests if what stands before the @ is a secret; ``abfs://container@account...`` and ``sftp://user@host`` hold none."""
    return ":" in account or scheme.lower() in ("http://", "https://")
