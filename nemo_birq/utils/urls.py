"""URLs of files (``s3://bucket/audio_0.tar``): joining with names, and removal of secrets."""

import os
import re

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]{0,30}://"  # without the limit, the time for a long word would be quadratic in its length
_URL = re.compile(_SCHEME)
_ACCOUNT = re.compile(rf"({_SCHEME})([^/\s'\"@]*)@")
_WORD = re.compile(r"[^\s'\"]+")
_QUERY = re.compile(r"\?[^<>]+")
_HIDDEN = "***"


def is_url(path: str | os.PathLike) -> bool:
    """Returns True if a path is a URL; other paths are local files."""
    return _URL.match(str(path)) is not None


def absolute(path: str) -> str:
    """Returns the absolute path of a local file; a URL stays unchanged."""
    return path if is_url(path) else os.path.abspath(path)


def join(folder: str, name: str) -> str:
    """Joins a folder, which may be a URL, and a file name, which may be an absolute path or a URL."""
    if is_url(name):
        return name
    name = os.path.expanduser(name)
    if is_url(folder) and not os.path.isabs(name):
        return f"{folder.rstrip('/')}/{name}"
    return os.path.join(folder, name)


def folder_of(path: str) -> str:
    """Returns the absolute folder of a file."""
    return path.rpartition("/")[0] if is_url(path) else os.path.dirname(os.path.abspath(path))


def without_secrets(text: object) -> str:
    """Replaces user, password and query of each URL in a text, such as an error message, by ``***``."""
    return _WORD.sub(lambda word: _hide(word[0]) if "://" in word[0] else word[0], str(text))


def _hide(word: str) -> str:
    start = word.index("://")
    word = word[:start] + _QUERY.sub(f"?{_HIDDEN}", word[start:])
    return _ACCOUNT.sub(lambda found: f"{found[1]}{_HIDDEN}@" if _is_secret(found[1], found[2]) else found[0], word)


def find_secret_problem(path: str) -> str | None:
    """Returns a message if a path is a URL that may hold a secret, with what to do; otherwise None."""
    if not is_url(path) or without_secrets(path) == path:
        return None
    return (
        f"{without_secrets(path)} is a URL with an account or a query, such as a signature or a token: configurations, "
        "logs, indexes and models would keep it. Remove that part, and put credentials where the tools of the store read "
        "them: ~/.aws/credentials, GOOGLE_APPLICATION_CREDENTIALS, or ~/.netrc for https"
    )


def _is_secret(scheme: str, account: str) -> bool:
    """Returns True if the part before the @ is a secret; it is none in ``abfs://container@account`` and
    ``sftp://user@host``."""
    return ":" in account or scheme.lower() in ("http://", "https://")
