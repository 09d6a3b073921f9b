"""The command line: ``python3 -m limiter serve | hit | show | apps | doctor | sweep | compile``.

Each command is a function.  Its docstring is its help, and it returns the exit status.
"""

import argparse
import inspect
import os
import platform
import signal
import sys
import textwrap
from datetime import datetime

import limiter
from limiter.apache.guard import GUARD
from limiter.cgi import log
from limiter.core.carry import carry
from limiter.core.decision import Decision
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.privileges import become_owner
from limiter.core.store import Store, StoreError, is_app
from limiter.core.sweep import HOUR, sweep
from limiter.doctor.command import doctor
from limiter.report.settings import REPORT
from limiter.request import register
from limiter.request.key import Key
from limiter.request.settings import REQUEST, Settings
from limiter.tools import bundle
from limiter.tools.serve import serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_APP = (
    "the app_id; with LIMITER_KEY header:NAME or env:NAME the value that is sent; '-' reads it from standard"
    " input, where no other user sees it"
)
_LAST_HITS = 10
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main() -> int:
    """Run the command that the arguments name, and return the exit status.

    0: done, or the hit was allowed; 1: the hit was denied; 2: it could not be done.
    """
    arguments = _parser().parse_args()
    if arguments.run is not _serve:
        # If nobody reads the output, end at once, as other tools do.  The server must go on.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        status: int = arguments.run(arguments)
        return status
    except (ValueError, OSError) as error:
        log(str(error))
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m limiter",
        description="Admit at most so many hits per window for each application, with nothing but files.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"limiter {limiter.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    app = ("app", {"metavar": "APP", "help": _APP})
    of_entry = f"{_APP}; .default: all other app_ids"
    of_limits = "such as '100/second;5000/hour', 0/second or unlimited"
    root = {"metavar": "ROOT", "nargs": "?", "help": "the store (default: LIMITER_ROOT)"}
    meet = {"action": "store_true", "help": "wait a minute for another node that runs the same command"}
    port = {"type": _port, "default": 8000, "help": "the port (default: 8000)"}
    _add(commands, "serve", _serve, ("--port", port))
    _add(commands, "hit", _hit, app)
    _add(commands, "show", _show, app)
    apps = _add(commands, "apps", _apps)
    verbs = apps.add_subparsers(dest="verb", required=True, metavar="list|set|remove")
    verbs.add_parser("list", help="show every app_id and its limits")
    setting = verbs.add_parser("set", help="add an app_id, or change its limits")
    setting.add_argument("app", metavar="APP", help=of_entry)
    setting.add_argument("limits", metavar="LIMITS", help=of_limits)
    removing = verbs.add_parser("remove", help="remove an app_id")
    removing.add_argument("app", metavar="APP", help=of_entry)
    _add(commands, "doctor", _doctor, ("root", root), ("--meet", meet))
    times = "10m, 600 (seconds), 2h; default: 1h"
    idle = {"type": _duration, "default": HOUR, "metavar": "TIME", "help": times}
    _add(commands, "sweep", _sweep, ("--idle", idle))
    _add(commands, "compile", _compile)
    return parser


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: "Callable[[argparse.Namespace], int]",
    *arguments: "tuple[str, dict[str, Any]]",
) -> argparse.ArgumentParser:
    summary, _, more = inspect.cleandoc(run.__doc__ or "").partition("\n\n")
    parser = commands.add_parser(
        name,
        help=f"{summary[0].lower()}{summary[1:-1]}",
        description=summary,
        epilog=f"{more}\n\n{_settings()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    for argument, options in arguments:
        parser.add_argument(argument, **options)
    return parser


def _settings() -> str:
    """Return the help on all settings."""
    text = "settings (environment variables):\n"
    for name, (_, default, meaning) in {**REQUEST, **REPORT, **GUARD}.items():
        shown = f"{meaning} (default: {default})" if default else meaning
        text += f"  {name}\n{textwrap.indent(textwrap.fill(shown, 88), '      ')}\n"
    return text


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 65535")
    return int(text)


def _duration(text: str) -> float:
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdecimal()) or len(number) > 8:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 90s, 10m, 2h or 1d")
    return float(int(number) * _UNITS[unit])


def _serve(arguments: argparse.Namespace) -> int:
    """Serve the CGI scripts on 127.0.0.1, to try them without Apache.

    It runs cgi-bin/check.py for each request as Apache would.  Only this machine can reach it.
    With port 0 it takes a free port and prints it.
    """
    serve(arguments.port)
    return 0


def _hit(arguments: argparse.Namespace) -> int:
    """Count a hit against an application, or deny it.

    exit status:
      0  allowed
      1  denied, and nothing was counted
      2  no decision: a bad argument or setting, or the store failed

    Run by root, it acts as the owner of the store.
    """
    app, root, chosen = _application(arguments)
    if chosen is None:
        return 0
    become_owner(root)
    decision = chosen.hit(app)
    for note in decision.notes:
        log(note)
    print(f"{app}: {'allowed' if decision else f'denied, retry after {decision.retry_after:.3f} s'}")
    _print_quotas(decision, [])
    return 0 if decision else 1


def _show(arguments: argparse.Namespace) -> int:
    """Show where an application stands; counts nothing.

    For each limit: the hits used, when the next one comes free, and the times of the last ten hits
    that count now.  A fixed limit knows only its last hit, a burst limit none.
    """
    app, root, chosen = _application(arguments)
    if chosen is None:
        return 0
    decision, hits = chosen.peek(app), chosen.hits(app)
    print(f"{app} in {root}")
    _print_quotas(decision, hits)
    for note in decision.notes:
        print(f"  {note}")
    return 0


def _application(arguments: argparse.Namespace) -> "tuple[str, str, Limiter | None]":
    """Return the app_id, its store and its limiter.  If it is unlimited: None, and print that."""
    settings = Settings(os.environb)
    app = _app_id(arguments.app, settings)
    limits = settings.limit
    if settings.apps and is_app(app):
        entry = register.look_up(settings.apps, app)
        if entry is None:
            raise ValueError(
                f"{app} is not in the register {settings.apps}, which has no .default (401)"
            )
        limits = entry[1]
    if limits == register.UNLIMITED:
        print(f"{app}: unlimited")
        return app, "", None
    root = _store(settings, app)
    return app, root, Limiter(root, settings.share(limits), newcomers="")


def _store(settings: Settings, app: str) -> str:
    """Return the path of the store of an application, and log what is to be said about it."""
    root = settings.store(app)
    while settings.notes:
        log(settings.notes.pop())
    return root


def _app_id(text: str, settings: Settings) -> str:
    """Return the app_id of a client that sends ``text`` as the key's value.

    If the key is a parameter, the app_id is the text itself.  ``-`` reads the text from standard input.
    """
    key = Key(settings.key, settings.trusted_proxies)
    if text == "-":
        text = sys.stdin.readline().rstrip("\n")
    if key.variable is None or text == register.DEFAULT:
        return text
    return key.find({key.variable: os.fsencode(text)}.get) or text


def _print_quotas(decision: Decision, hits: "list[list[int]]") -> None:
    for index, quota in enumerate(decision.quotas):
        most = quota.limit.quota
        used = most - quota.remaining
        more = f", next free in {quota.reset_after:.3f} s" if used else ""
        print(f"  {quota.limit.name}: {used} of {most} used{more}")
        for time in hits[index][-_LAST_HITS:] if hits else []:
            when = datetime.fromtimestamp(time / 1_000_000).astimezone()
            print(f"    {when.isoformat(' ', 'microseconds')}")


def _apps(arguments: argparse.Namespace) -> int:
    """List, set or remove the limits of single app_ids.

    LIMITER_APPS names the register, a directory of symbolic links: acme -> 100/second.  A limit of
    0/second bans, and unlimited frees.  An app_id that is not in it has the limits of .default, and
    gets 401 if there is no .default.  A change applies from the next request.  Hits that count under
    the old limits count under the new ones, too.

    exit status:
      0  done
      1  remove: there is no such app_id
      2  it could not be done
    """
    settings = Settings(os.environb)
    if not settings.apps:
        raise ValueError("LIMITER_APPS is not set (set it to the register's directory)")
    if arguments.verb == "list":
        for name, limits in register.entries(settings.apps):
            print(f"{name}\t{limits}")
        return 0
    app = _app_id(arguments.app, settings)
    if not is_app(app) and app != register.DEFAULT:
        raise ValueError(
            f"app_id {app!r:.200}: expected 1 to 64 letters, digits, '.', '_' and '-',"
            f" beginning with a letter or a digit, or {register.DEFAULT}"
        )
    if arguments.verb == "set":
        if arguments.limits != register.UNLIMITED:
            parse(arguments.limits)
        _carry(settings, app, arguments.limits)
        register.put(settings.apps, app, arguments.limits)
        return 0
    general = register.look_up(settings.apps, register.DEFAULT)
    if app != register.DEFAULT and general is not None:
        _carry(settings, app, general[1])
    if register.remove(settings.apps, app):
        return 0
    print(f"limiter: {app} is not in the register {settings.apps}", file=sys.stderr)
    return 1


def _carry(settings: Settings, changed: str, new: str) -> None:
    """Count the hits of the clients whose limits change in their new limits.

    If the store fails, the log says so, and the change is made all the same: it may be a ban.
    """
    entry = register.look_up(settings.apps, changed)
    if entry is None or register.UNLIMITED in (entry[1], new) or entry[1] == new:
        return
    try:
        old, new = settings.share(entry[1]), settings.share(new)
        parse(old)
    except ValueError:
        return  # a bad entry has never counted a hit
    try:
        apps = [changed]
        if changed == register.DEFAULT:
            named = {name for name, _ in register.entries(settings.apps)}
            stored = {name.partition("@")[0] for root in _roots() for name in Store(root).names(".")}
            apps = sorted(filter(is_app, stored - named))
        for app in apps:
            carry(_store(settings, app), app, old, new)
    except StoreError as error:
        log(f"{changed}: not all hits count under the new limits, too: {error}")


def _doctor(arguments: argparse.Namespace) -> int:
    """Test whether a file system does what a store needs.

    It tests renames, listings, claims by several processes at once, furnishing and the clock, in a
    directory of its own below ROOT.  It does not touch the applications.

    exit status:
      0  nothing failed
      1  something failed: do not use the store in this way
      2  the store could not be tested
    """
    roots = _roots() if arguments.root is None else [os.path.abspath(arguments.root)]
    return max([doctor(root, arguments.meet) for root in roots])


def _sweep(arguments: argparse.Namespace) -> int:
    """Remove the directories of clients that got no hit for an hour.

    Hits go on meanwhile.  A directory stays as long as its limit's window, and a minute.  Run by root,
    it acts as the owner of the store.  It sweeps every store, even if one fails.
    """
    status = 0
    for root in _roots():
        try:
            sweep(root, arguments.idle)
        except StoreError as error:
            log(str(error))
            status = 2
    return status


def _roots() -> "list[str]":
    settings = Settings(os.environb)
    return list(settings.root) or [_store(settings, "")]


def _compile(_: argparse.Namespace) -> int:
    """Compile the package for CGI scripts, after every update of it or of Python.

    Run it with the Python that the scripts name in their first line, as the owner of the files.
    """
    bundle.compile_all()
    print(f"Compiled {bundle.HERE} for {platform.python_implementation()} {platform.python_version()}")
    return 0
