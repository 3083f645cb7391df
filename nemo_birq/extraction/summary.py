"""The last lines that an extraction prints."""

from nemo_birq.extraction.run import ExtractionSummary
from nemo_birq.utils.terminal import Terminal


def print_summary(done: ExtractionSummary, console: Terminal) -> None:
    """Prints how much a run extracted, and how much earlier runs had left."""
    if done.resumed == done.parts:
        console.print("All parts were there before; nothing was left to do.")
        return
    text = f"{done.utterances:,} utterances, {done.seconds / 3600:.2f} h of audio, in {done.parts - done.resumed} parts"
    if done.resumed:
        text += f"; {done.resumed} parts were there before"
    console.print(text)
    if done.unreadable:
        text = f"{done.unreadable} utterances could not be read and are left out; the warnings say why."
        console.print(text, style="yellow")
