"""Writes what the table of settings says into docs/settings.md and deploy/apache/limiter.conf.

``python3 docs/settings.py``, after a change of a table of settings.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from limiter.apache.guard import GUARD  # noqa: E402
from limiter.report.settings import REPORT  # noqa: E402
from limiter.request.counters import METRICS  # noqa: E402
from limiter.request.settings import REQUEST  # noqa: E402


def page(text: str) -> str:
    """Return the page with its tables as the settings say."""
    for name, table in (("request", {**REQUEST, **METRICS}), ("report", REPORT), ("guard", GUARD)):
        rows = [
            f"| `{it}` | {meaning} | {default and f'`{default}`'} |"
            for it, (_, default, meaning) in table.items()
        ]
        lines = ["| variable | meaning | default |", "|---|---|---|", *rows]
        text = _replaced(text, f"<!-- {name} -->", f"<!-- end of {name} -->", lines)
    return text


def configuration(text: str) -> str:
    """Return Apache's configuration with a line for each setting: for scripts, and for the map's program."""
    lines = [
        f"    Use Limiter{'Guard' if name in GUARD else ''}Setting {name}"
        for name in (*REQUEST, *METRICS, *REPORT, *GUARD)
    ]
    return _replaced(
        text, "    # Settings: docs/settings.py writes these lines.", "    # End of settings", lines
    )


def _replaced(text: str, first: str, last: str, lines: list[str]) -> str:
    pattern = f"(?<={re.escape(first)}\n).*?(?={re.escape(last)}\n)"
    changed, number = re.subn(pattern, lambda _: "\n".join(lines) + "\n", text, flags=re.DOTALL)
    if number != 1:
        raise ValueError(f"expected once a line {first!r} and a line {last!r} after it")
    return changed


FILES = {"docs/settings.md": page, "deploy/apache/limiter.conf": configuration}
"""What is written, and by which function."""

if __name__ == "__main__":
    for path, write in FILES.items():
        file = REPOSITORY / path
        file.write_text(write(file.read_text()))
