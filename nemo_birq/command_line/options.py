"""Parameters that several commands share, each with one spelling; nemo_birq/cli.py lists them."""

import math
import os
from collections.abc import Callable
from typing import Any

import click

from nemo_birq.command_line.command import PATH, Argument, Option

Decorator = Callable[[Callable[..., None]], Callable[..., None]]


class PositiveNumber(click.FloatRange):
    """A finite number above 0."""

    def __init__(self):
        super().__init__(min=0, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = PositiveNumber()

TRAIN_DATA_KEYS = {
    "model.train_ds.manifest_filepath": "manifest of audio files, or sharded manifests such as "
    "/data/sharded_manifests/manifest__OP_0..511_CL_.json",
    "model.train_ds.tarred_audio_filepaths": "tar shards of sharded manifests, such as /data/audio__OP_0..511_CL_.tar",
}
"""Keys of Hydra commands that name the training data, with their descriptions."""


def argument(name: str, help: str, **attributes: Any) -> Decorator:
    """Adds a positional argument."""
    return click.argument(name, cls=Argument, help=help, **attributes)


def option(*names: str, **attributes: Any) -> Decorator:
    """Adds an option."""
    return click.option(*names, cls=Option, **attributes)


def several_option(name: str, help: str, **attributes: Any) -> Decorator:
    """Adds an option that accepts several values."""
    return option(name, multiple=True, help=help, **{"metavar": "TEXT..."} | attributes)


def model_argument(help: str = ".nemo, or .ckpt of a pretraining run") -> Decorator:
    return argument("model", help, type=PATH)


def data_argument(help: str = "manifest, pattern of sharded manifests, or folder of shards", **attributes: Any) -> Decorator:
    return argument("data", help, old=("--manifest",), **attributes)


def tars_option() -> Decorator:
    return option("--tars", old=("--tarred-audio",), help="Tar files, if DATA is a pattern of sharded manifests.")


def out_option(help: str, **attributes: Any) -> Decorator:
    return option("--out", **{"type": PATH, "help": help} | attributes)


def alignments_option(**attributes: Any) -> Decorator:
    return option("--alignments", **{"type": PATH, "help": "CTM file, or folder of TextGrid files."} | attributes)


def hours_option(help: str = "Hours of audio to use, drawn at random; all by default.") -> Decorator:
    return option("--hours", type=POSITIVE, help=help)


def layers_option(help: str, **attributes: Any) -> Decorator:
    return option("--layers", metavar="N,N,...", help=help, **attributes)


def layer_option(help: str, **attributes: Any) -> Decorator:
    return option("--layer", type=int, metavar="N", help=help, **attributes)


def seed_option(help: str) -> Decorator:
    return option("--seed", type=int, default=0, help=help)


def batch_seconds_option() -> Decorator:
    return option("--batch-seconds", type=POSITIVE, default=120.0, help="Seconds of audio in a batch, with padding.")


def workers_option(default: int | None = None, help: str = "Processes that decode audio.") -> Decorator:
    """Adds ``--workers``; without a default, up to 4 processes."""
    return option("--workers", type=int, default=default or min(4, os.cpu_count() or 1), help=help)


def ray_option(help: str) -> Decorator:
    """Adds ``--ray``, whose value may be left out; the value then is ``any``."""
    return option("--ray", is_flag=False, flag_value="any", metavar="[ADDRESS]", help=help)


def part_minutes_option() -> Decorator:
    help = "Minutes of audio in a part; an interrupted run loses at most one part."
    return option("--part-minutes", type=POSITIVE, default=20.0, help=help)


def normalization_option() -> Decorator:
    help = "Normalization of references and hypotheses."
    return option("--normalization", type=click.Choice(("default", "none")), default="default", help=help)
