"""``python3 -m benchmarks peers | growth | compare OLD NEW``; without a word: peers."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import growth, peers
from benchmarks.record import compare

_HELP = """\
peers             this limiter beside its peers, on the same work
growth            how the cost of a hit grows
compare OLD NEW   what changed between two records (peers --record FILE)

Each says more with --help.
"""


def main(arguments: list[str]) -> int:
    """Run the benchmark that the first argument names."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("peers", [])
    if command.startswith("-") and command not in ("-h", "--help"):
        command, rest = "peers", arguments
    if command == "peers":
        return peers.main(rest)
    if command == "growth":
        return growth.main(rest)
    parser = argparse.ArgumentParser(
        prog="python3 -m benchmarks",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["peers", "growth", "compare"])
    parser.add_argument("records", nargs="*", type=Path, metavar="RECORD")
    options = parser.parse_args(arguments)
    if len(options.records) != 2:
        parser.error("expected two records: compare OLD NEW")
    try:
        return compare(*options.records)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    # What is interrupted, by Ctrl-C or by kill, still ends its servers and removes its files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main(sys.argv[1:]))
