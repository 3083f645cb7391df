"""Commands and Python examples of the pages of the documentation."""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

from tests.helpers.paths import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "tarred_manifests" / "README.md"])
SHELL = re.compile(
    r"^(?:#.*\n)*(?:\$ )?(?:[A-Z_]+=|(?:birq|python|make|for|export|pip|git|lhotse|hf|mfa|sbatch|docker) |\.venv/bin/)"
)
"""Beginning of a block of commands, after its comments."""
RECORD = """
PATH=/nowhere
command_not_found_handle() { printf '%s\\037' "$@" >&3; printf '\\036' >&3; }
"""
"""Makes bash write down every program that it would start, with its arguments, in place of starting it."""


class Block(NamedTuple):
    """A code block of a page."""

    page: str
    """Path in the repository."""
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Returns the fenced and the indented code blocks of a page."""
    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [
        Block(str(page.relative_to(ROOT)), token.map[0] + 1, token.info, token.content)
        for token in tokens
        if token.type in ("fence", "code_block")
    ]


def is_shell(block: Block) -> bool:
    return block.language in ("", "bash", "sh") and bool(SHELL.match(block.text))


def commands(texts: list[str], folder: Path) -> list[list[str]]:
    """Returns the commands that bash would start, with their arguments, after all of its expansions.

    Nothing is started. ``<name>`` becomes ``NAME``, and an argument ``...`` is left out. If lines of a text begin with
    ``$ ``, only these are commands.

    Args:
        texts: blocks of one page, in their order: later ones may use the variables of earlier ones.
        folder: an empty folder to work in.

    Raises:
        AssertionError: bash cannot read a block.
    """
    shown = [
        _without_output(re.sub(r"<([\w -]+)>", lambda found: found[1].upper().replace(" ", "_"), text)) for text in texts
    ]
    record = folder / "commands"
    record.touch()
    script = f"exec 3>>{record}\n{RECORD}" + "\n".join(shown)
    done = subprocess.run(["/bin/bash", "-c", script], cwd=folder, capture_output=True, text=True, env={"HOME": str(folder)})
    errors = [line for line in done.stderr.splitlines() if not line.endswith("No such file or directory")]
    assert not errors, f"bash: {errors}"
    found = [command.split("\037")[:-1] for command in record.read_text().split("\036")[:-1]]
    record.unlink()
    return [[argument for argument in command if argument != "..."] for command in found]


def _without_output(text: str) -> str:
    if "$ " not in (line[:2] for line in text.splitlines()):
        return text
    kept, goes_on = [], False
    for line in text.splitlines():
        if goes_on or line.startswith("$ "):
            kept.append(line.removeprefix("$ "))
            goes_on = line.endswith("\\")
    return "\n".join(kept)
