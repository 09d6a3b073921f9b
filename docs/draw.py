"""Draws the pictures of the documentation: ``python docs/draw.py``, with what tests/run has installed.

Colours follow the reader's choice of light or dark.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import drawsvg as draw

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "limiter"

_STYLE = """
svg { background: #ffffff; font-family: sans-serif; font-size: 15px; }
text { fill: #1f2328; }
.mono { font-family: monospace; font-size: 13px; }
.note { fill: #57606a; font-size: 13px; }
.head { font-weight: bold; }
.plain { fill: #f6f8fa; stroke: #8c959f; }
.free, .web { fill: #d8f0d8; stroke: #2e7d32; }
.busy { fill: #f7dcdc; stroke: #b23b3b; }
.blue { fill: #dce8f7; stroke: #2b5c9e; }
.idle { fill: none; stroke: #2b5c9e; stroke-dasharray: 5 4; }
.gold { fill: #fdf0d5; stroke: #a86b00; }
.line { fill: none; stroke: #57606a; stroke-width: 2; }
.dashed { fill: none; stroke: #57606a; stroke-width: 1.5; stroke-dasharray: 4 4; }
.tip { fill: #57606a; }
@media (prefers-color-scheme: dark) {
  svg { background: #0d1117; }
  text { fill: #e6edf3; }
  .note { fill: #9da7b1; }
  .plain { fill: #161b22; stroke: #6e7681; }
  .free, .web { fill: #12381a; stroke: #3fb950; }
  .busy { fill: #4a1e1e; stroke: #f85149; }
  .blue { fill: #14304f; stroke: #58a6ff; }
  .idle { stroke: #58a6ff; }
  .gold { fill: #3d2e06; stroke: #d29922; }
  .line, .dashed { stroke: #9da7b1; }
  .tip { fill: #9da7b1; }
}
"""


class _Picture(draw.Drawing):  # type: ignore[misc]
    """A drawing in these colours; ``says`` is for those who cannot see it."""

    def __init__(self, width: int, height: int, says: str) -> None:
        super().__init__(width, height, role="img", aria_label=says)
        self.append_css(_STYLE)
        self._tip = draw.Marker(-6, -4, 1, 4, scale=1, orient="auto")
        self._tip.append(draw.Path("M -6 -3 L 0 0 L -6 3 z", class_="tip"))

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        self.append(draw.Text(text, None, x, y, class_=kind or None, text_anchor=anchor))

    def box(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        self.append(draw.Rectangle(x, y, width, height, rx=5, class_=kind))

    def arrow(self, path: str, kind: str = "line") -> None:
        self.append(draw.Path(path, class_=kind, marker_end=self._tip))


def hit() -> draw.Drawing:
    """How a hit works."""
    picture = _Picture(
        900, 300, "A hit renames a slot that is at least a window old; if none is, it is denied."
    )
    picture.text(
        20, 28, "limit 3/second: three slots, empty files named by when each was last taken", "head"
    )
    before = ["1513123455.020000-0", "1513123456.100000-1", "1513123456.450000-2"]
    after = ["1513123456.500000-0", *before[1:]]
    _slots(picture, 20, before, free=1)
    _slots(picture, 350, after)
    picture.text(20, 204, "a hit at 1513123456.500000", "note")
    picture.text(20, 222, "1. list: slot 0 is at least a second old", "note")
    picture.arrow("M 258 89 H 340")
    picture.text(266, 80, "2. rename", "note")
    picture.text(350, 204, "admitted: a rename has one winner", "note")
    picture.text(350, 222, "the others try another slot, or list again", "note")
    picture.arrow("M 588 125 H 660")
    picture.text(675, 62, "next hit, at .600000", "head")
    picture.text(675, 94, "1. list: no slot is a second old", "note")
    picture.text(675, 125, "429, retry after 0.5 s")
    picture.text(675, 156, "nothing was written", "note")
    picture.box(20, 244, 860, 40, "plain")
    picture.text(
        34,
        269,
        "No lock, no counter, no daemon. A process killed at any moment leaves nothing to repair.",
    )
    return picture


def _slots(picture: _Picture, x: int, names: Sequence[str], free: int = 0) -> None:
    picture.text(x, 62, "ROOT/acme@3-per-1s/", "mono")
    for at, name in enumerate(names):
        picture.box(x, 74 + 36 * at, 230, 30, "free" if at < free else "busy")
        picture.text(x + 10, 94 + 36 * at, name, "mono")


_ROOMS = [
    ("tools", "commands for people", "plain"),
    ("apache doctor", "the doors that only Apache has; and whether a file system is fit", "plain"),
    (
        "scripts contrib",
        "scripts that run under the limiter (so limiter.errors); other libraries",
        "plain",
    ),
    ("", "the doors that users import", "web"),
    ("status", "what administrators look at: the page, the metrics", "blue"),
    ("report", "from a problem to a log line and a mail", "blue"),
    ("request", "from a request to a decision", "blue"),
    ("core", "the limit, the store, one hit", "gold"),
]


def house() -> draw.Drawing:
    """The rooms of the package, and the one direction of their imports."""
    modules = [[it for room in names.split() or [""] for it in _modules(room)] for names, _, _ in _ROOMS]
    height = sum(_room_height(lines) + 10 for lines in modules)
    picture = _Picture(900, 58 + height, "The rooms of the package; each imports only from those below.")
    picture.text(20, 30, "limiter/: a room imports only from the rooms below it", "head")
    y = 48
    for (names, says, kind), lines in zip(_ROOMS, modules):
        picture.box(60, y, 820, _room_height(lines), kind)
        picture.text(74, y + 18, f"{' and '.join(names.split()) or 'limiter'}: {says}", "head")
        for at, text in enumerate(lines):
            picture.text(74, y + 34 + 15 * at, text, "note")
        y += _room_height(lines) + 10
    picture.arrow(f"M 34 56 V {y - 16}")
    return picture


def _room_height(lines: list[str]) -> int:
    return 29 + 15 * len(lines)


def _modules(room: str) -> list[str]:
    """The modules of a room, in lines that fit."""
    names = sorted(path.stem for path in (PACKAGE / room).glob("*.py") if path.stem[0] != "_")
    names = names if room else ["asgi", "cgi", "wsgi"]
    return textwrap.wrap((f"{room}/: " if room else "") + ", ".join(names), 118)


def system() -> draw.Drawing:
    """Machines that share one limit behind one address."""
    picture = _Picture(
        960,
        430,
        "A client asks one address. A director hands each request to a web server, which answers itself."
        " The web servers share one store on GlusterFS.",
    )
    picture.box(20, 150, 130, 60, "plain")
    picture.text(85, 185, "client", "head", "middle")
    for y, name, kind in ((60, "director 1", "blue"), (240, "director 2", "idle")):
        picture.box(270, y, 190, 76, kind)
        picture.text(365, y + 30, name, "head", "middle")
        picture.text(365, y + 54, "LVS, keepalived", "note", "middle")
    picture.text(365, 50, "holds 192.0.2.100", "mono", "middle")
    picture.text(365, 336, "waits", "note", "middle")
    picture.arrow("M 365 236 V 142", "dashed")
    picture.text(375, 195, "VRRP", "note")
    for at in range(3):
        y = 40 + 100 * at
        picture.box(600, y, 190, 76, "web")
        picture.text(695, y + 30, f"web {at + 1}", "head", "middle")
        picture.text(695, y + 54, "Apache, limiter", "note", "middle")
        picture.arrow(f"M 460 98 L 594 {y + 34}")
        picture.arrow(f"M 790 {y + 38} H 846")
    picture.arrow("M 150 170 L 264 104")
    picture.text(150, 130, "requests", "note")
    picture.arrow("M 600 300 L 500 370 H 85 V 216", "line")
    picture.text(150, 362, "answers go straight to the client", "note")
    picture.box(852, 40, 90, 276, "gold")
    for y, text, kind in ((120, "store", "head"), (150, "GlusterFS", "note"), (170, "3 copies", "note")):
        picture.text(897, y, text, kind, "middle")
    picture.text(
        20,
        410,
        "Each second the director asks every web server for health.py. One that cannot admit leaves.",
        "note",
    )
    return picture


PICTURES = {"hit": hit, "house": house, "system": system}


if __name__ == "__main__":
    for name, picture in PICTURES.items():
        (HERE / f"{name}.svg").write_text(picture().as_svg() + "\n")
