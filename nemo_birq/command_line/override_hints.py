"""Hints for Hydra overrides that name no key of the configuration."""

from collections.abc import Sequence
from pathlib import Path

RENAMED_GROUPS = {"labels": "objective"}
"""Groups of configurations in conf/ that had another name in earlier versions."""


def current_spelling(argument: str) -> str:
    """Returns an override with the group's current name: ``labels=paper`` is ``objective=paper``."""
    group, equals, preset = argument.partition("=")
    return f"{RENAMED_GROUPS[group]}={preset}" if equals and group in RENAMED_GROUPS else argument


def unknown_key(folder: Path, config_name: str, arguments: Sequence[str]) -> str | None:
    """Returns a sentence that names the key nearest to the first override whose key does not exist; None if all exist.

    Hydra refuses such an override, but leaves it to the user to find the right spelling.

    Args:
        folder: of the configurations.
        config_name: configuration that is taken without ``--config-name``.
        arguments: of the command, Hydra's options among them.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    from nemo_birq.config import refuse_unknown_keys

    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith(("-", "+", "~"))]
    keys = [override.partition("=")[0] for override in overrides]
    groups = [o for o, key in zip(overrides, keys, strict=True) if "." not in key and (folder / key).is_dir()]
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in ("--config-name", "-cn"):
            config_name = value if equals else following
    try:
        with initialize_config_dir(str(folder), version_base=None):
            known = compose(config_name, overrides=groups)
    except HydraException:
        return None
    for key in keys:
        if (folder / key).is_dir():
            continue
        asked = OmegaConf.create()
        OmegaConf.update(asked, key, None)
        try:
            refuse_unknown_keys(asked, known, "")
        except ValueError as error:
            return str(error)
    return None
