"""Commands that are configured with Hydra: ``--config-name=NAME key=value ...``, run by NeMo's ``hydra_runner``."""

import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nemo_birq.command_line.command import SETTINGS, Command, interruptible
from nemo_birq.command_line.configurations import config_folder, configurations, presets
from nemo_birq.command_line.override_hints import current_spelling, expanded_by_shell, explain
from nemo_birq.command_line.quiet import make_terminal_quiet

if TYPE_CHECKING:
    from omegaconf import DictConfig

FULL_ERROR = "HYDRA_FULL_ERROR"
"""Environment variable that makes Hydra raise its errors instead of printing them and ending the process."""
HYDRA_OPTIONS = {
    "--config-name=NAME": "name of a configuration, from the list below",
    "--config-path=FOLDER": "read the configurations from this folder instead; --config-dir adds a folder",
    "--cfg job": "print the whole configuration and exit",
    "-h, --help": "show this message and exit; --hydra-help shows the other options of Hydra",
}


class HydraCommand(Command):
    """A command with the arguments of Hydra.

    Args:
        folder: folder of its configurations, relative to conf/; "" is conf/ itself.
        config_name: default of ``--config-name``.
        keys: descriptions of the keys that users set most often.
        more_keys: function that returns further lines of the help.
    """

    def __init__(
        self, *args: Any, folder: str, config_name: str, keys: dict[str, str],
        more_keys: Callable[[], list[str]] = list, **attributes: Any,
    ):  # fmt: skip
        super().__init__(*args, **attributes)
        self.folder, self.config_name, self.keys, self.more_keys = folder, config_name, keys, more_keys

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["--config-name=NAME", "[key=value ...]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        folder = config_folder() / self.folder
        _write_rows(formatter, "Options:", HYDRA_OPTIONS)
        _write_rows(formatter, f"Configurations in {folder}:", configurations(folder))
        _write_rows(formatter, "Presets:", presets(folder))
        _write_rows(formatter, "Frequently used keys:", self.keys)
        formatter.write("".join(f"{line}\n" for line in ["", *self.more_keys()]))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Leaves all arguments except ``--help`` to Hydra."""
        if {"-h", "--help"} & set(args):
            click.echo(self.get_help(ctx))
            ctx.exit()
        ctx.args = [current_spelling(argument) for argument in args]
        return ctx.args

    def invoke(self, ctx: click.Context) -> None:
        from nemo.core.config import hydra_runner

        if hint := expanded_by_shell(ctx.args):
            sys.exit(f"{ctx.command_path}: {hint}")
        whole, full_error = sys.argv, os.environ.get(FULL_ERROR)
        is_composed = False

        def run(cfg: "DictConfig") -> None:
            nonlocal is_composed
            is_composed = True
            make_terminal_quiet()
            _set_full_error(full_error)
            sys.argv = whole  # Lightning uses it to start the processes of other GPUs
            self.callback(cfg)

        folder = config_folder() / self.folder
        # The warning asks for a setting of NeMo's hydra_runner, which users cannot change.
        warnings.filterwarnings("ignore", message=r"\s*Future Hydra versions")
        sys.argv = [whole[0], *_with_absolute_config_path(ctx.args)]
        _set_full_error("1")
        try:
            with interruptible():
                hydra_runner(config_path=str(folder), config_name=self.config_name)(run)()
        except Exception as error:
            if is_composed or full_error:
                raise
            sys.exit(f"{ctx.command_path}: {explain(error, folder, self.config_name, ctx.args)}")
        finally:
            _set_full_error(full_error)
            sys.argv = whole


def hydra_command(
    name: str, *, folder: str = "", config_name: str, keys: dict[str, str], more_keys: Callable[[], list[str]] = list
) -> Callable[[Callable[["DictConfig"], None]], HydraCommand]:
    """Returns a decorator that makes a function of a configuration a command; its docstring begins the help text."""
    return click.command(
        name, cls=HydraCommand, context_settings=SETTINGS, folder=folder, config_name=config_name, keys=keys,
        more_keys=more_keys,
    )  # fmt: skip


def _set_full_error(value: str | None) -> None:
    if value is None:
        os.environ.pop(FULL_ERROR, None)
    else:
        os.environ[FULL_ERROR] = value


def _write_rows(formatter: click.HelpFormatter, title: str, rows: dict[str, str]) -> None:
    """Writes one line for each row without wrapping it; the terminal wraps long lines."""
    if rows:
        width = max(map(len, rows))
        formatter.write(f"\n{title}\n" + "".join(f"  {key:{width}}  {text}\n" for key, text in rows.items()))


def _with_absolute_config_path(arguments: list[str]) -> list[str]:
    """Makes ``--config-path`` absolute, because Hydra resolves it relative to the Python file of the command."""
    found = []
    for argument, before in zip(arguments, [None, *arguments], strict=False):
        option, equals, value = argument.partition("=")
        if before in ("--config-path", "-cp") and "://" not in argument:
            argument = str(Path(argument).absolute())
        elif option in ("--config-path", "-cp") and equals and "://" not in value:
            argument = f"{option}={Path(value).absolute()}"
        found.append(argument)
    return found
