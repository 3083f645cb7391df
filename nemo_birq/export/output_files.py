"""Checks of the output of an export before any work, so that nothing is overwritten without --force."""

import tempfile
from pathlib import Path

SUFFIXES = (".nemo", ".onnx", ".ts", ".pt")
README = "README.md"
FOLDER_FILES = ("config.json", "model.safetensors", "preprocessor_config.json", README)
"""Names of the files in an exported folder for transformers."""


def is_folder(out: Path) -> bool:
    """Returns True if a name is that of a folder: it has no suffix, or the folder exists."""
    return not out.suffix or (out.suffix not in SUFFIXES and out.is_dir())


def check_output(source: Path, out: Path, force: bool, card: bool = True) -> None:
    """Checks the second argument of an export.

    Args:
        source: input file.
        out: file or folder to write.
        force: overwrite existing files.
        card: True if a README.md is written beside a ``.nemo``.

    Raises:
        ValueError: ``out`` has a suffix other than ``.nemo``, ``.onnx``, ``.ts`` or ``.pt``, or is ``source``.
        FileExistsError: an output file exists without ``force``, or a file is in the place of a folder.
        OSError: the folder cannot be created or written to.
    """
    if out.resolve() == source.resolve():
        raise ValueError(f"{out} is the input: give another file, because the original is needed to continue pretraining")
    if is_folder(out):
        _check_folder(out, force)
        return
    if out.suffix not in SUFFIXES:
        raise ValueError(
            f"{out} has an unknown suffix: give one of {', '.join(SUFFIXES)}, or a name without a suffix for a folder for "
            "Hugging Face transformers"
        )
    for path in (out, *([out.with_name(README)] if card and out.suffix == ".nemo" else [])):
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder: give a file")
        if path.exists() and not force:
            raise FileExistsError(
                f"{path} exists already: give a file in another folder, such as {out.stem}/{out.name}, or --force"
            )
    _check_writable(out.parent)


def _check_folder(out: Path, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file: give a folder, or a file that ends with {', '.join(SUFFIXES)}")
    for path in (out / name for name in FOLDER_FILES):
        if path.is_dir():
            raise FileExistsError(f"{path} is a folder in the place of an output file: give another folder")
        if path.exists() and not force:
            raise FileExistsError(f"{path} exists already: give another folder, or --force")
    _check_writable(out if out.is_dir() else out.parent)


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(f"{folder} cannot be written to ({error.strerror}): give another folder") from error
