"""Classes of endings of a command with one damaged file, and their rules."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.reliability.fuzzing.stage import Ended
from benchmarks.reliability.fuzzing.torch_validity import REASON as OTHER_TENSORS

HARMLESS = "harmless"
NAMED_ERROR = "named error"
COUNTED = "skipped and counted"
UNDETECTABLE = "undetectable"
TRACEBACK = "traceback"
UNNAMED_ERROR = "unnamed error"
ABORT = "abort"
HANG = "hang"
MEMORY = "memory"
SILENT = "silent"
CLASSES = {
    HARMLESS: "the result is that of the good file",
    NAMED_ERROR: "the command ends with an exit code other than 0 and one message, which names the file",
    COUNTED: "the command goes on, and its output names the file or the line and what it leaves out",
    UNDETECTABLE: "the result is another one, and the damaged file is itself a valid file of a format without redundancy",
    TRACEBACK: "the output has a Python traceback",
    UNNAMED_ERROR: "the message does not name the file",
    ABORT: "a signal or an uncaught C++ exception ends the process",
    HANG: "the command does not end in time",
    MEMORY: "an allocation fails, or would take the memory of the machine",
    SILENT: "the result is another one, nothing says so, and a checksum or the structure could show it",
}
FORBIDDEN = (TRACEBACK, UNNAMED_ERROR, ABORT, HANG, MEMORY, SILENT)
"""Classes that no corruption may have."""

BEGIN_OF_MESSAGE = re.compile(r"^(birq [\w-]+|birq|[\w.]+\.py|Error|usage: .*|Usage: .*)(: |$)")
LOG_LINE = re.compile(r"^\s*\[NeMo [IDW]|^\s*$|^GPU available|^TPU available|^HPU available|^💡")
LEFT_OUT = re.compile(
    r"skip|left out|leaves? out|cannot be (read|used|opened)|could not be read|ignor|not readable|unreadable|damaged|"
    r"truncated|lacks?\b|is not |missing|does not (exist|hold|know)|unknown|not found|incomplete|refus|never|disagree|"
    r"differ|ha(s|ve) no|stops at|ends at|lost|instead of|without|no \w+ of|nearest|earlier|older|warning|note:",
    re.IGNORECASE,
)
SHOWN = 3
"""Most differences of a result that are shown."""
NUMBERS = re.compile(r"\d+")


class Verdict(NamedTuple):
    """The class of an ending."""

    name: str
    why: str
    """Message, rule, or first lines of the output."""


@dataclass(frozen=True)
class Expected:
    """Output of the command with the good file, and the names by which a message may name the damaged one."""

    output: str
    names: Sequence[str]


def judge(ended: Ended, changes: Sequence[str] | None, rule: str | None, expected: Expected) -> Verdict:
    """Classifies an ending.

    Args:
        ended: ending of the command.
        changes: differences of its result from that of the good file; None if there is no result to compare.
        rule: reason why the damage cannot be detected; None if it can.
        expected: output with the good file, and names of the damaged file.
    """
    everything = f"{ended.output}\n{ended.errors}"
    last = _last_lines(everything)
    if ended.code is None:
        return Verdict(HANG, f"still running after {ended.seconds:.0f} s")
    if re.search(r"MemoryError|can't allocate memory|Cannot allocate memory|std::bad_alloc|DefaultCPUAllocator", everything):
        return Verdict(MEMORY, last)
    if ended.code < 0 or "terminate called" in everything or "Segmentation fault" in everything:
        return Verdict(ABORT, f"exit code {ended.code}: {last}")
    if "Traceback (most recent call last)" in everything:
        return Verdict(TRACEBACK, last)
    if ended.code != 0:
        text = message(ended, expected)
        if not _names(text, expected.names) and rule == OTHER_TENSORS:
            return Verdict(UNDETECTABLE, rule)  # such as weights that diverge in the next step
        return Verdict(NAMED_ERROR if _names(text, expected.names) else UNNAMED_ERROR, text or last)
    if not changes:
        return Verdict(HARMLESS, "")
    said = _said(everything, expected)
    if said:
        return Verdict(COUNTED, said)
    return Verdict(SILENT, "\n".join(changes[:SHOWN])) if rule is None else Verdict(UNDETECTABLE, rule)


def message(ended: Ended, expected: Expected) -> str:
    """Returns the message of a command that failed, from the last line that begins a message, or else all new lines."""
    lines = ended.errors.splitlines()
    begins = [number for number, line in enumerate(lines) if BEGIN_OF_MESSAGE.match(line)]
    if begins:
        return "\n".join(lines[begins[-1] :]).strip()
    return "\n".join(_new_lines(f"{ended.output}\n{ended.errors}", expected.output)).strip()


def _said(text: str, expected: Expected) -> str:
    """Returns the lines that are new, name the damaged file and report a problem."""
    new = _new_lines(text, expected.output, logs=True)
    for number, line in enumerate(new):
        around = " ".join(new[max(0, number - 3) : number + 4])
        if _names(line, expected.names) and LEFT_OUT.search(around):
            return line.strip()
    return ""


def _new_lines(text: str, expected: str, logs: bool = False) -> list[str]:
    known = {NUMBERS.sub("#", line) for line in expected.splitlines()}
    lines = [line for line in text.splitlines() if line.strip() and (logs or not LOG_LINE.match(line))]
    return [line for line in lines if NUMBERS.sub("#", line) not in known]


def _names(text: str, names: Sequence[str]) -> bool:
    joined = re.sub(r"\s+", "", text)  # a long path may be broken over two lines
    return any(re.sub(r"\s+", "", name) in joined for name in names)


def _last_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-3:])
