"""Plots of benchmarks, as SVG: one for light and one for dark pages.  The same figures give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours of Okabe and Ito, which colour-blind people can tell apart; each line also has a marker.
_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9", "#8c6d31")
_DARK = ("#56B4E9", "#FF8C42", "#2EC4A0", "#E08FC0", "#E69F00", "#F0F0F0", "#4C8FE0", "#C9A35B")
_MARKERS = "osD^vPX*"
_STYLES = {
    "": ("white", "#1f2328", "#dddddd", _LIGHT),
    "-dark": ("#0d1117", "#e6edf3", "#30363d", _DARK),
}
"""By the end of the file's name: background, text, grid, and the colours of the series."""

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""The x and y values of each line, by its name."""


def lines(
    path: str,
    title: str,
    x_label: str,
    y_label: str,
    series: Series,
    log_x: bool = False,
    log_y: bool = False,
) -> None:
    """Draw a line for each series into ``path``.svg and ``path``-dark.svg."""
    for axes, colours in _pictures(path, title, (9, 5)):
        for (name, (x, y)), colour, marker in zip(series.items(), colours, _MARKERS):
            axes.plot(x, y, color=colour, marker=marker, label=name, clip_on=False)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:,.10g}")
        axes.minorticks_off()
        if not log_y:
            axes.set_ylim(bottom=0)
        if len(series) > 1:
            axes.legend(frameon=False)


def bars(path: str, title: str, x_label: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Draw horizontal bars, on a logarithmic axis, into ``path``.svg and ``path``-dark.svg.

    ``groups``: for each kind of bar, its figure (above 0) by the name of the row.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))[::-1]
    height = 0.8 / len(groups)
    for axes, colours in _pictures(path, title, (9, 1.2 + 0.45 * len(names))):
        for nth, ((kind, group), colour) in enumerate(zip(groups.items(), colours)):
            places = [names.index(name) - nth * height for name in group]
            drawn = axes.barh(places, list(group.values()), height, color=colour, label=kind)
            axes.bar_label(drawn, fmt="{:,.3g}", padding=3)
        axes.set_yticks([nth - 0.4 + height / 2 for nth in range(len(names))], names)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:,.10g}")
        axes.margins(x=0.1)
        axes.set_xlabel(x_label)
        axes.grid(axis="y", visible=False)
        axes.legend(frameon=False)


def _pictures(
    path: str, title: str, size: tuple[float, float]
) -> Iterator[tuple[Axes, tuple[str, ...]]]:
    for end, (background, text, grid, colours) in _STYLES.items():
        with _picture(f"{path}{end}.svg", title, size, background, text, grid) as axes:
            yield axes, colours


@contextmanager
def _picture(
    path: str, title: str, size: tuple[float, float], background: str, text: str, grid: str
) -> Iterator[Axes]:
    """One picture; it is written after the block."""
    keys = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "limiter", "font.size": 11}
    style.update(dict.fromkeys(keys, text), **{"axes.facecolor": background})
    with rc_context(style):
        figure = Figure(figsize=size, layout="constrained", facecolor=background)
        axes = figure.subplots()
        axes.set_title(title, loc="left")
        axes.grid(color=grid, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        yield axes
        about = {"Title": title, "Date": None, "Creator": None}
        figure.savefig(path, format="svg", metadata=about)
