"""Draws one utterance: spectrogram, mask, words, phones, labels and predictions, over the same time axis."""

from colorsys import hsv_to_rgb
from itertools import groupby
from pathlib import Path

import numpy as np
from lhotse.supervision import AlignmentItem
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nemo_birq.evaluation.label_quality.phone_sets import SILENCE
from nemo_birq.evaluation.label_quality.utterance_view import LabelTrack, UtteranceView
from nemo_birq.utils.pictures import plain, write_picture

INCHES_PER_SECOND, WIDTH = 4.0, (9.0, 40.0)
RIGHT, WRONG = "#1a9850", "#d73027"


def draw_utterance(view: UtteranceView, path: Path) -> None:
    """Writes the picture, whose width grows with the duration."""
    tracks = [(view.words, "words"), (view.phones, "phones")]
    tracks = [(items, name) for items, name in tracks if items]
    heights = [3.0, *(0.42 for _ in tracks), 1.15, 1.15]
    width = float(np.clip(INCHES_PER_SECOND * view.seconds, *WIDTH))
    figure = Figure(figsize=(width, sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    _spectrogram(axes[0], view)
    for axis, (items, name) in zip(axes[1:], tracks, strict=False):
        _intervals(axis, items, name)
    for axis, track in zip(axes[-2:], (view.anchor, view.enhanced), strict=True):
        _labels(axis, track, width / view.seconds)
    axes[0].set_xlim(0, view.seconds)
    axes[-1].set_xlabel("seconds")
    title = f"{view.name}: {view.text}" if view.text else view.name
    axes[0].set_title(f"{plain(title)}\nhatched: masked, seed {view.seed}", fontsize=11)
    write_picture(figure, path)


def _spectrogram(axis: Axes, view: UtteranceView) -> None:
    low, high = np.percentile(view.features, (2, 99.5))
    edges = view.mel.edges(view.features.shape[1])
    bins = len(view.frequencies)
    axis.imshow(
        view.features, origin="lower", aspect="auto", cmap="magma", vmin=low, vmax=high, interpolation="nearest",
        extent=(edges[0], edges[-1], -0.5, bins - 0.5),
    )  # fmt: skip
    for masked, frames in groupby(range(len(view.mask)), key=lambda i: view.mask[i]):
        span = list(frames)
        if masked:
            axis.axvspan(
                edges[span[0]], edges[span[-1] + 1], facecolor=(1, 1, 1, 0.55), edgecolor="grey", hatch="//", lw=0.8
            )
    kilohertz = [f for f in (0.25, 0.5, 1, 2, 4, 8) if f * 1000 <= view.frequencies[-1]]
    axis.set_yticks(np.interp(np.array(kilohertz) * 1000, view.frequencies, np.arange(bins)), [f"{f:g}" for f in kilohertz])
    axis.set_ylabel("kHz (mel scale)")


def _intervals(axis: Axes, items: list[AlignmentItem], name: str) -> None:
    for number, item in enumerate(items):
        colour = "#f0f0f0" if item.symbol == SILENCE else ("#c6dbef", "#e3eef9")[number % 2]
        axis.axvspan(item.start, item.end, facecolor=colour, edgecolor="white", lw=1)
        if item.symbol != SILENCE:
            middle, symbol = item.start + item.duration / 2, plain(item.symbol)
            axis.text(middle, 0.5, symbol, ha="center", va="center", fontsize=8, clip_on=True)
    _bare(axis, [0.5], [name])
    axis.set_ylim(0, 1)


def _labels(axis: Axes, track: LabelTrack, inches_per_second: float) -> None:
    """Draws three rows: the labels, the predictions in the same colours, and marks of right and wrong ones."""
    edges, middles = track.times.edges(len(track.labels)), track.times.middles(len(track.labels))
    codes = list(dict.fromkeys([*track.labels, *track.predictions]))
    # The golden ratio gives very different hues to neighbouring codes in order of appearance.
    colours = {code: (*hsv_to_rgb(i * 0.618 % 1, 0.45, 0.95), 1.0) for i, code in enumerate(codes)} | {-1: (1, 1, 1, 0)}
    cells = np.array([[colours[code] for code in row] for row in (track.predictions, track.labels)])
    axis.pcolormesh(edges, [0.8, 1.8, 2.8], cells)
    for height, row in ((2.3, track.labels), (1.3, track.predictions)):
        for code, frames in groupby(range(len(row)), key=lambda i, row=row: row[i]):
            run = list(frames)
            room = (edges[run[-1] + 1] - edges[run[0]]) * inches_per_second
            if code >= 0 and room > 0.075 * len(str(code)):
                axis.text(middles[run].mean(), height, code, ha="center", va="center", fontsize=6.5, clip_on=True)
    masked, right = track.predictions >= 0, track.predictions == track.labels
    axis.plot(middles[masked & right], np.full((masked & right).sum(), 0.4), "o", ms=5, color=RIGHT)
    axis.plot(middles[masked & ~right], np.full((masked & ~right).sum(), 0.4), "x", ms=5, color=WRONG)
    _bare(axis, [2.3, 1.3, 0.4], [track.name, "predicted", f"right: {track.right} of {track.masked}"])
    axis.set_ylim(0, 2.85)


def _bare(axis: Axes, ticks: list[float], names: list[str]) -> None:
    axis.set_yticks(ticks, names, fontsize=8)
    axis.tick_params(length=0)
    axis.spines[["top", "right", "left", "bottom"]].set_visible(False)
