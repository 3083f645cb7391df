"""Command ``birq export``: a pretrained encoder as a bare .nemo, ONNX, TorchScript, or a folder for Hugging Face
transformers."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.terminal import Terminal

if TYPE_CHECKING:
    from nemo_birq.export.bare_encoder import BareEncoder

console = Terminal()


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.2f} MB"


def table(bare: "BareEncoder") -> Table:
    """Returns a table with the sizes of the kept and removed parts."""
    found = Table("part", "kept", "removed", header_style="bold")
    for part in bare.kept | bare.removed:
        found.add_row(part, *(megabytes(sizes[part]) if part in sizes else "" for sizes in (bare.kept, bare.removed)))
    return found


@command("export")
@options.argument("source", ".nemo of a pretraining", type=PATH)
@options.argument("out", "output file (.nemo, .onnx, .ts or .pt) or folder", type=PATH)
@options.layer_option("Export only the layers 1 to N; all by default.")
@options.option("--license", help="Licence for the model card: a name of the hub, such as cc-by-4.0 or apache-2.0.")
@options.several_option("--language", "Languages for the model card, such as en de.")
@options.several_option("--datasets", "Data sets for the model card: names on the hub, such as openslr/librispeech_asr.")
@options.option("--force", is_flag=True, help="Overwrite existing files.")
def export(
    source: Path, out: Path, layer: int | None, license: str | None, language: tuple[str, ...], datasets: tuple[str, ...],
    force: bool,
) -> None:  # fmt: skip
    """Exports a pretrained encoder without the parts for pretraining, as a .nemo or in the format of another runtime.

        birq export pretrained.nemo hub/encoder.nemo --license cc-by-4.0 --language en
        birq export pretrained.nemo encoder.onnx
        birq export pretrained.nemo encoder.ts
        birq export pretrained.nemo hub/encoder

    The suffix of the output selects the format. Stock NeMo opens the .nemo, which has a model card inside and as README.md
    beside it, as the Hugging Face hub expects. The models in .onnx and .ts (TorchScript, also .pt) take log-mel features and
    are compared with PyTorch before they are written. ONNX needs pip install 'nemo_birq[export]'. With a name without
    suffix, or an existing folder, the command writes a FastConformer for Hugging Face transformers, with its feature
    extractor and a model card. See docs/export.md for details.
    """
    from nemo.utils import logging

    from nemo_birq.export.bare_encoder import check_source, strip, write_nemo
    from nemo_birq.export.output_files import FOLDER_FILES, README, check_output, is_folder
    from nemo_birq.export.runtime_files import describe, write_runtime_file
    from nemo_birq.export.transformers_folder import write_folder
    from nemo_birq.export.transformers_settings import check_settings

    logging.setLevel(logging.ERROR)
    config = check_source(source)
    to_folder = is_folder(out)
    if to_folder:
        check_settings(config, source)
    check_output(source, out, force)
    with console.status("opening the model"):
        bare = strip(source, layer, license=license, language=list(language) or None, datasets=list(datasets) or None)
    with console.status(f"writing {out}"):
        if to_folder:
            differences = write_folder(bare.model, out)
        elif out.suffix == ".nemo":
            write_nemo(bare.model, out)
        else:
            deviation = write_runtime_file(bare.model, out)
    console.print(table(bare))
    if bare.removed_keys:
        console.print(f"removed from the configuration: {', '.join(bare.removed_keys)}", soft_wrap=True)
    written = [out / name for name in FOLDER_FILES] if to_folder else [out]
    for path, files in ((source, [source]), (out, written)):
        console.print(f"{megabytes(sum(file.stat().st_size for file in files)):>12}  {path}", soft_wrap=True)
    if to_folder:
        console.print(
            f"largest difference from NeMo, over several lengths and batches: {differences.features:.1e} of the features, "
            f"{differences.outputs:.1e} of the encoder's outputs",
            soft_wrap=True,
        )
    if to_folder or out.suffix == ".nemo":
        console.print(f"model card    {out / README if to_folder else out.with_name(README)}", soft_wrap=True)
        return
    if deviation is None:
        console.print("not compared with PyTorch: pip install 'nemo_birq[export]'", style="yellow")
    else:
        console.print(f"largest difference from PyTorch, over several lengths and batches: {deviation:.1e}")
    console.print(f"input: log-mel features, up to {describe(bare.model)['longest_input_seconds']:.0f} s of audio")
