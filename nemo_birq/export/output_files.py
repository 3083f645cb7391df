"""Where an export goes: looked at before any work, written as a whole or not at all, nothing overwritten unasked."""

import tempfile
from pathlib import Path

SUFFIXES = (".nemo", ".onnx", ".ts", ".pt")
README = "README.md"


def check_output(source: Path, out: Path, force: bool) -> None:
    """
    Raises:
        ValueError: ``out`` has another suffix than ``.nemo``, ``.onnx``, ``.ts`` or ``.pt``, or is ``source``.
        FileExistsError: ``out``, or for a ``.nemo`` the README.md beside it, is there and ``force`` is not given.
        OSError: the folder cannot be made or written to.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"{out}: the suffix says what to write, and must be one of {', '.join(SUFFIXES)}")
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the input: name another file, the original is needed to go on pretraining")
    for path in (out, *([out.with_name(README)] if out.suffix == ".nemo" else [])):
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder: name a file")
        if path.exists() and not force:
            raise FileExistsError(
                f"{path} exists already: name a file in a folder of its own, such as {out.stem}/{out.name}, or give --force"
            )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise OSError(f"{out.parent} cannot be written to ({error.strerror}): name a file in another folder") from error
