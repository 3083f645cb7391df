"""Hints for errors of Hydra: overrides that it cannot parse, and keys, presets and configurations that do not exist."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from nemo_birq.command_line.command import on_one_line
from nemo_birq.command_line.configurations import configurations

SYNTAX = "write KEY=VALUE, and quote a VALUE with commas, brackets, quotes or equals signs as 'KEY=\"VALUE\"'"
DATA_KEYS = ("manifest_filepath", "tarred_audio_filepaths")
NUMBERS = re.compile(r"[({[<](\d+\.\.\d+)[)}\]>]")
"""NeMo's pattern of numbered files, in any of its brackets; _OP_ and _CL_ are brackets that need no quotes."""
RENAMED_GROUPS = {"labels": "objective"}
"""Current names of the groups in conf/ that had other names in earlier versions."""


def current_spelling(argument: str) -> str:
    """Returns an override with the current name of its group: ``labels=paper`` becomes ``objective=paper``."""
    group, equals, preset = argument.partition("=")
    return f"{RENAMED_GROUPS[group]}={preset}" if equals and group in RENAMED_GROUPS else argument


def expanded_by_shell(arguments: Sequence[str]) -> str | None:
    """Returns a message if the shell has expanded a pattern to one argument for each file; otherwise None.

    Without quotes, ``manifest_filepath=/data/manifest_{0..3}.json`` becomes four arguments, of which Hydra uses the last.
    """
    for first, second in pairwise(arguments):
        key, _, value = first.partition("=")
        if key.rpartition(".")[2] not in DATA_KEYS or not second.startswith(f"{key}="):
            continue
        values = [argument.removeprefix(f"{key}=") for argument in arguments if argument.startswith(f"{key}=")]
        parts, last = (re.split(r"(\d+)", text) for text in (value, values[-1]))
        differing = [i for i, pair in enumerate(zip(parts, last, strict=False)) if pair[0] != pair[1]]
        if len(parts) == len(last) and len(differing) == 1 and differing[0] % 2:  # one number
            parts[differing[0]] = f"_OP_{parts[differing[0]]}..{last[differing[0]]}_CL_"
            pattern = "".join(parts)
            return (
                f"{key} is given {len(values)} times, from {value} to {values[-1]}: the shell has expanded braces. Write "
                f"{key}={pattern}, or quote the argument: {_quoted(key, pattern)}"
            )
    return None


def _quoted(key: str, value: str) -> str:
    """Returns an override with braces, quoted for the shell and for Hydra."""
    value = value.replace("_OP_", "{").replace("_CL_", "}")
    return f"'{key}=\"{value}\"'"


def unknown_key(folder: Path, config_name: str, arguments: Sequence[str]) -> str | None:
    """Returns a message with the key nearest to the first unknown key of the overrides; None if all keys exist.

    Hydra refuses such an override, but does not suggest a spelling.

    Args:
        folder: folder of the configurations.
        config_name: default of ``--config-name``.
        arguments: arguments of the command, including Hydra's options.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from nemo_birq.config import refuse_unknown_keys

    config_name = _option(arguments, ("--config-name", "-cn")) or config_name
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "+", "~"))]
    keys = [override.partition("=")[0] for override in overrides]
    groups = [o for o, key in zip(overrides, keys, strict=True) if "." not in key and (folder / key).is_dir()]
    try:
        with initialize_config_dir(str(folder), version_base=None):
            known = compose(config_name, overrides=groups)
    except (HydraException, ValueError):
        return None
    for key in keys:
        if (folder / key).is_dir():
            continue
        asked = OmegaConf.create()
        try:
            OmegaConf.update(asked, key, None)
            refuse_unknown_keys(asked, known, "")
        except ValueError as error:
            return str(error)
    return None


def _unreadable(folder: Path) -> str | None:
    """Returns a message about the first configuration in a folder that is not text; None if all can be read."""
    for path in sorted(folder.rglob("*.yaml")):
        try:
            path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"it is not UTF-8 text: {error.reason}"
            return f"the configuration {path} cannot be read ({reason}). Restore it, or remove it"
    return None


def explain(error: Exception, folder: Path, config_name: str, arguments: Sequence[str]) -> str:
    """Returns a one-line message that says why Hydra could not compose the configuration, and what to do.

    Args:
        error: error that Hydra raised.
        folder: folder of the configurations.
        config_name: default of ``--config-name``.
        arguments: arguments of the command, including Hydra's options.
    """
    from hydra.errors import MissingConfigException, OverrideParseException

    from nemo_birq.utils.settings import unknown_name

    folder = Path(_option(arguments, ("--config-path", "-cp")) or folder)
    if broken := _unreadable(folder):
        return broken
    if isinstance(error, OverrideParseException):
        reason = error.message.partition("\nSee http")[0].removeprefix(f"Error parsing override '{error.override}'")
        key, _, value = error.override.partition("=")
        without_brackets = NUMBERS.sub(r"_OP_\1_CL_", value)
        remedy = SYNTAX
        if without_brackets != value and not set("'\"") & set(error.override):
            quoted = "" if value.startswith("[") else f", or {_quoted(key, without_brackets)} with both quotes"
            remedy = f"write '{key}={without_brackets}'{quoted}"
        return f"{error.override} cannot be read ({on_one_line(reason)}): {remedy}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        known = error.options or list(configurations(folder))
        return f"{unknown_name(group or '--config-name', name, known)}. There is no {folder / group / name}.yaml"
    hint = unknown_key(folder, config_name, arguments)
    return f"{hint} (+KEY=VALUE adds a new key)" if hint else on_one_line(str(error))


def _option(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """Returns the last value of an option of Hydra; None if it is not given."""
    found = None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in names:
            found = value if equals else following
    return found
