"""Applies overrides to a composed configuration, because composing takes a quarter of a second."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from tests.helpers.paths import ROOT

PARSER = OverridesParser.create()
ABSENT = object()


@cache
def composed(folder: str, name: str, *overrides: str, resolve: bool = False) -> DictConfig:
    """Returns a configuration of conf/<folder>. Whoever changes it undoes that.

    Args:
        folder: below conf/.
        name: of the configuration.
        overrides: that it is composed with.
        resolve: replace interpolations by their values, which every check would do anew.
    """
    with initialize_config_dir(str(ROOT / "conf" / folder), version_base=None):
        cfg = compose(name, overrides=list(overrides))
    return OmegaConf.create(OmegaConf.to_container(cfg, resolve=True)) if resolve else cfg


@contextmanager
def overridden(cfg: DictConfig, *overrides: str) -> Iterator[DictConfig]:
    """Gives a configuration with overrides in Hydra's syntax, ``key=value``, ``+key=value`` or ``~key``, and undoes them."""
    undo = []
    with open_dict(cfg):
        for override in PARSER.parse_overrides(list(overrides)):
            key = override.key_or_group
            group, _, name = key.rpartition(".")
            parent = OmegaConf.select(cfg, group) if group else cfg
            undo.append((parent, name, OmegaConf.to_container(parent, resolve=False).get(name, ABSENT)))
            if override.is_delete():
                parent.pop(name)
            else:
                parent[name] = override.value()
        try:
            yield cfg
        finally:
            for parent, name, value in reversed(undo):
                if value is ABSENT:
                    parent.pop(name)
                else:
                    parent[name] = value
