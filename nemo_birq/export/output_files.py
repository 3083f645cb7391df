"""Where an export goes: looked at before any work, written as a whole or not at all, nothing overwritten unasked."""

import tempfile
from pathlib import Path

SUFFIXES = (".nemo", ".onnx", ".ts", ".pt")
README = "README.md"
FOLDER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", README)
"""Names of the files in a folder for transformers."""


def is_folder(out: Path) -> bool:
    """Tells whether a name asks for a folder: it has no suffix, or is one already."""
    return not out.suffix or (out.suffix not in SUFFIXES and out.is_dir())


def check_output(source: Path, out: Path, force: bool, card: bool = True) -> None:
    """Checks the second argument of an export.

    Args:
        source: the input.
        out: file or folder to write.
        force: overwrite existing files.
        card: a README.md is written beside a ``.nemo``.

    Raises:
        ValueError: ``out`` is a file of another suffix than ``.nemo``, ``.onnx``, ``.ts`` or ``.pt``, or is ``source``.
        FileExistsError: a file to write is there and ``force`` is not given, or a file is where a folder must be.
        OSError: the folder cannot be made or written to.
    """
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the input: name another file, the original is needed to go on pretraining")
    if is_folder(out):
        _check_folder(out, force)
        return
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"{out}: the suffix says what to write, and must be one of {', '.join(SUFFIXES)}; a name without a suffix is a "
            "folder for Hugging Face transformers"
        )
    for path in (out, *([out.with_name(README)] if card and out.suffix == ".nemo" else [])):
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder: name a file")
        if path.exists() and not force:
            raise FileExistsError(
                f"{path} exists already: name a file in a folder of its own, such as {out.stem}/{out.name}, or give --force"
            )
    _check_writable(out.parent)


def _check_folder(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: name a folder, or a file that ends with {', '.join(SUFFIXES)}")
    for path in (out / name for name in FOLDER_FILES):
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder, where a file is to be written: name another folder")
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists already: name another folder, or give --force")
    _check_writable(out if out.is_dir() else out.parent)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}): name another folder") from error
