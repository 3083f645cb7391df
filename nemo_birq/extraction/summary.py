"""The last lines of the output of an extraction."""

from nemo_birq.extraction.run import ExtractionSummary
from nemo_birq.utils.terminal import Terminal


def print_summary(done: ExtractionSummary, console: Terminal) -> None:
    """Prints the amount of audio that this run and earlier runs have extracted."""
    if done.resumed == done.parts:
        console.print("All parts already existed; nothing was left to do.")
        return
    text = f"{done.utterances:,} utterances, {done.seconds / 3600:.2f} h of audio, in {done.parts - done.resumed} parts"
    if done.resumed:
        text += f"; {done.resumed} parts already existed"
    console.print(text)
    if done.unreadable:
        text = f"{done.unreadable} utterances could not be read and were skipped; the warnings say why."
        console.print(text, style="yellow")
