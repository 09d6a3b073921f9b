"""The command line: ``python3 -m limiter serve | hit | show``."""

import argparse
import os
import signal
import sys
from datetime import datetime, timedelta, timezone

import limiter
from limiter import settings
from limiter.hit import Decision
from limiter.limiter import Limiter
from limiter.serve import HOST, serve

_SETTINGS = """\
settings (environment variables):
  LIMITER_ROOT      the store, an absolute path that exists
                    (default: limiter-UID in $TMPDIR or /tmp, made when missing)
  LIMITER_LIMIT     the limits, ';' between several, such as '100/minute;1000/hour',
                    '10 per 2 seconds', '5000/hour fixed', '5/second burst 20'
                    (default: 10/second)
  LIMITER_ON_ERROR  deny or admit when the store fails (default: deny)
"""
_LAST_HITS = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def main() -> int:
    """Run the command that the arguments name; the status to exit with.

    0: done, or the hit was allowed; 1: the hit was denied; 2: it could not be done.
    """
    arguments = _parser().parse_args()
    try:
        if arguments.command == "serve":
            serve(arguments.port)
            return 0
        # Output that nobody reads is the end, as for other tools; a server's must not be.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        settings.admits_on_error(os.environb)  # of no use here, but a mistake is one anywhere
        root = settings.root(os.environb)
        chosen = Limiter(root, settings.limits(os.environb))
        if arguments.command == "hit":
            _become_owner(root)
            return _hit(chosen, arguments.app)
        return _show(chosen, arguments.app, root)
    except (ValueError, OSError) as error:
        print(f"limiter: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m limiter",
        description="At most so many hits per window for each application, with nothing but files.",
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"limiter {limiter.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, more: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"{more}\n{_SETTINGS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    serving = command(
        "serve",
        f"serve the CGI scripts on {HOST}, to try them without Apache",
        "It runs cgi-bin/check.py for each request as Apache would, and is seen by this\n"
        "machine only.  With port 0 it takes a free one and says which.\n",
    )
    serving.add_argument("--port", type=_port, default=8000, help="the port (default: 8000)")
    hitting = command(
        "hit",
        "count a hit against an application, or deny it",
        "exit status:\n  0  allowed\n  1  denied, and nothing was counted\n"
        "  2  it could not be decided: a bad argument or setting, or the store failed\n\n"
        "Run by root, it acts as the owner of the store.\n",
    )
    showing = command(
        "show",
        "show where an application stands; counts nothing",
        "For each limit: the hits used, when the next one comes free, and the times of the last\n"
        f"{_LAST_HITS} hits that count now.  A fixed limit knows only its last, a burst limit none.\n",
    )
    for parser_with_app in (hitting, showing):
        parser_with_app.add_argument("app", metavar="APP", help="the app_id")
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 65535")
    return int(text)


def _become_owner(root: str) -> None:
    """What root made in the store, its owner could not rename: root acts as the owner."""
    try:
        owner = os.stat(root)
    except OSError:
        return  # the hit itself will say what is wrong
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def _hit(chosen: Limiter, app: str) -> int:
    decision = chosen.hit(app)
    if decision:
        print(f"{app}: allowed")
    else:
        print(f"{app}: denied, retry after {decision.retry_after:.3f} s")
    _print_quotas(decision, [])
    return 0 if decision else 1


def _show(chosen: Limiter, app: str, root: str) -> int:
    decision, hits = chosen.peek(app), chosen.hits(app)
    print(f"{app} in {root}")
    _print_quotas(decision, hits)
    return 0


def _print_quotas(decision: Decision, hits: "list[list[int]]") -> None:
    for index, quota in enumerate(decision.quotas):
        most = quota.limit.quota
        used = most - quota.remaining
        more = f", next free in {quota.reset_after:.3f} s" if used else ""
        print(f"  {quota.limit.name}: {used} of {most} used{more}")
        for time in hits[index][-_LAST_HITS:] if hits else []:
            print(
                f"    {(_EPOCH + timedelta(microseconds=time)).astimezone().isoformat(' ', 'microseconds')}"
            )
