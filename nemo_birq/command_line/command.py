"""Click commands with one-line errors, options that take several values, and spellings of earlier versions."""

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import cleandoc
from pathlib import Path
from typing import Any

import click

from nemo_birq.utils.terminal import printable
from nemo_birq.utils.urls import is_url, without_secrets


class LocalPath(click.Path):
    """A local path, which becomes a ``Path``; the file or folder need not exist."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if is_url(value):
            self.fail(f"{without_secrets(value)} is a URL, but this command needs a local path.", param, ctx)
        return super().convert(value, param, ctx)


class PathOrUrl(click.Path):
    """A local path, which becomes a ``Path``, or a URL, which stays text."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        return str(value).rstrip("/") if is_url(value) else super().convert(value, param, ctx)


PATH, PATH_OR_URL = LocalPath(), PathOrUrl()
SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120}
FOREIGN = {"MisconfigurationException", "NeMoBaseException", "OmegaConfBaseException", "HydraException"}
"""Names of the errors with which Lightning, NeMo, OmegaConf and Hydra refuse a setting; importing them takes seconds."""


@contextmanager
def errors_in_one_line(*others: type[Exception]) -> Iterator[None]:
    """Turns errors that the user can fix into ``birq score: message`` and exit code 1, without a traceback.

    Raises:
        SystemExit: replaces a ValueError, OSError, ImportError, one of ``others``, or an error of ``FOREIGN``.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the output was closed; click ends the command without a message
    except Exception as error:
        if FOREIGN & {kind.__name__ for kind in type(error).__mro__}:
            sys.exit(f"{click.get_current_context().command_path}: {printable(on_one_line(str(error)))}")
        if isinstance(error, (ValueError, OSError, ImportError, *others)):
            sys.exit(f"{click.get_current_context().command_path}: {printable(error)}")
        raise


INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a process that SIGINT (Ctrl-C) ended."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Ends the process with 130, the exit code of SIGINT, instead of click's 1.

    Raises:
        SystemExit: replaces a KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))  # a second one would end click with the code 1
        click.echo("\nInterrupted", err=True)
        sys.exit(INTERRUPTED)


def on_one_line(text: str) -> str:
    """Returns a text without its line breaks and indentation."""
    return " ".join(text.split())


class Option(click.Option):
    """An option with spellings of earlier versions (``old``); with ``multiple``, it accepts several values at once."""

    def __init__(self, *args: Any, old: Sequence[str] = (), **attributes: Any):
        super().__init__(*args, **attributes)
        self.old = tuple(old)


class Argument(click.Argument):
    """A positional argument with a help text, and with the options that earlier versions had for it (``old``)."""

    def __init__(self, *args: Any, help: str, old: Sequence[str] = (), **attributes: Any):
        super().__init__(*args, **attributes)
        self.text = help
        self.old = tuple(old)


def _format_help_text(command: click.Command, formatter: click.HelpFormatter) -> None:
    """Writes the docstring unchanged, because click would wrap its examples as paragraphs."""
    formatter.write(f"\n{cleandoc(command.help or '')}\n")


class Command(click.Command):
    """A command that prints its docstring unchanged, lists its arguments, and ends with a one-line error."""

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_help_text(self, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [(param.make_metavar(ctx), param.text) for param in self.params if isinstance(param, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._canonical(ctx, args))

    def invoke(self, ctx: click.Context) -> Any:
        with interruptible(), errors_in_one_line():
            return super().invoke(ctx)

    def _canonical(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replaces old spellings, and repeats the option for each of several values: ``-a 1 2`` becomes ``-a 1 -a 2``."""
        renamed = {old: param for param in self.params for old in getattr(param, "old", ())}
        several = {name for param in self.params if isinstance(param, Option) and param.multiple for name in param.opts}
        rest, options, positional = list(args), [], []
        while rest:
            name, equals, value = rest.pop(0).partition("=")
            param = renamed.get(name)
            if isinstance(param, Argument):
                if not equals and not rest:
                    raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.", ctx)
                positional.append(value if equals else rest.pop(0))
                continue
            name = param.opts[0] if param else name
            options.append(name + equals + value)
            if name in several and not equals and rest:
                options.append(rest.pop(0))
                while rest and not _is_option(rest[0]):
                    options += [name, rest.pop(0)]
        return options + positional


class Group(click.Group):
    """A group of commands, such as ``birq make-shards`` with one command for each kind of input."""

    command_class = Command

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _format_help_text(self, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        with interruptible():
            return super().invoke(ctx)


def command(name: str) -> Callable[[Callable[..., None]], Command]:
    """Returns a decorator that makes a function a command, with its docstring as the help text."""
    return click.command(name, cls=Command, context_settings=SETTINGS)


def run_script(command: click.Command, file: str) -> None:
    """Runs a command as the script ``file``.

    Raises:
        SystemExit: an error occurred.
    """
    try:
        command.main(prog_name=Path(file).name)
    except SystemExit as end:
        if end.code:
            raise


def command_text() -> str:
    """Returns the command of this process as a line for a shell, to record it in results."""
    program, *arguments = sys.argv
    return shlex.join(["birq", *arguments] if Path(program).name == "birq" else ["python", program, *arguments])


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and not re.fullmatch(r"-\.?\d.*", argument)
