"""Command ``birq average``: one model from several checkpoints of a run."""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("average")
@options.argument("model", ".nemo of the run; everything except the weights is copied from it", type=PATH)
@options.argument("checkpoints", ".ckpt files of the same run", type=PATH, nargs=-1, required=True)
@options.out_option("Output .nemo.", required=True)
@options.option("--force", is_flag=True, help="Overwrite an existing file.")
def average(model: Path, checkpoints: tuple[Path, ...], out: Path, force: bool) -> None:
    """Averages the weights of several checkpoints of a pretraining or fine-tuning run.

        birq average run/checkpoints/run.nemo run/checkpoints/*-step=*.ckpt --out averaged.nemo

    To keep several checkpoints, train with exp_manager.checkpoint_callback_params.save_top_k=5. The mean of the last or best
    checkpoints is often slightly better than each of them; measure it. Tokenizer, configuration, label tensors and model
    card are copied from the .nemo.
    """
    from nemo_birq.export.average import average_weights, write_with_weights
    from nemo_birq.export.output_files import check_output

    if out.suffix != ".nemo":
        raise ValueError(f"--out {out} is not a .nemo: give a name that ends with .nemo")
    check_output(model, out, force, card=False)
    with console.status(f"reading {len(checkpoints)} checkpoints"):
        weights = average_weights(model, checkpoints)
    write_with_weights(model, weights, out)
    console.print(f"mean of {len(checkpoints)} checkpoints  {out}", soft_wrap=True)
