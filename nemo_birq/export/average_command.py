"""``birq average``: one model of several checkpoints of a run."""

from pathlib import Path

from nemo_birq.command_line import options
from nemo_birq.command_line.command import PATH, command
from nemo_birq.utils.terminal import Terminal

console = Terminal()


@command("average")
@options.argument("model", ".nemo of the run; all but its weights is kept", type=PATH)
@options.argument("checkpoints", ".ckpt files of the same run", type=PATH, nargs=-1, required=True)
@options.out_option(".nemo to write.", required=True)
@options.option("--force", is_flag=True, help="Overwrite an existing file.")
def average(model: Path, checkpoints: tuple[Path, ...], out: Path, force: bool) -> None:
    """Averages the weights of several checkpoints of a run, pretraining or fine-tuning.

        birq average run/checkpoints/run.nemo run/checkpoints/*-step=*.ckpt --out averaged.nemo

    Keep several checkpoints with exp_manager.checkpoint_callback_params.save_top_k=5. The mean of the last or best of them
    is often a little better than each; measure it. Tokenizer, configuration, label tensors and model card are those of the
    .nemo.
    """
    from nemo_birq.export.average import average_weights, write_with_weights
    from nemo_birq.export.output_files import check_output

    if out.suffix != ".nemo":
        raise ValueError(f"--out {out}: the name must end with .nemo")
    check_output(model, out, force, card=False)
    with console.status(f"reading {len(checkpoints)} checkpoints"):
        weights = average_weights(model, checkpoints)
    write_with_weights(model, weights, out)
    console.print(f"mean of {len(checkpoints)} checkpoints  {out}", soft_wrap=True)
