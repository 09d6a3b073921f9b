"""The command line: ``python3 -m limiter serve | hit | show | top | apps | check-config | doctor | sweep | ...``.

Each command is a function.  Its docstring is its help, and it returns the exit status.
"""

import argparse
import inspect
import os
import platform
import signal
import sys
import textwrap
import traceback

import limiter
from limiter.apache.guard import GUARD
from limiter.cgi import log
from limiter.core.store import StoreError
from limiter.core.sweep import HOUR, sweep
from limiter.doctor.command import doctor
from limiter.report.settings import REPORT
from limiter.request.settings import REQUEST
from limiter.tools import apps, bundle, clients, installed
from limiter.tools.check_config import check_config, parse_request
from limiter.tools.serve import serve, serve_check
from limiter.tools.shared import shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_APP = (
    "the app_id; with LIMITER_KEY header:NAME or env:NAME the value that is sent; '-' reads it from standard"
    " input, where no other user sees it"
)
_APACHE_INSTALL = "apache-install"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main() -> int:
    """Run the command that the arguments name, and return the exit status.

    0: done, or the hit was allowed; 1: the hit was denied; 2: it could not be done.
    """
    # The parser would take the options of the installer for its own.
    is_installer = sys.argv[1:2] == [_APACHE_INSTALL]
    arguments = _parser().parse_args([_APACHE_INSTALL] if is_installer else None)
    if arguments.run is not _serve:
        # If nobody reads the output, end at once, as other tools do.  The server must go on.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    if os.geteuid() == 0:
        # The owner of the store, whom it may become, may not be able to read Python's modules.
        import limiter.apache.preload  # noqa: F401
    try:
        if arguments.settings or arguments.run not in (_compile, _serve, _apache_install):
            installed.apply(arguments.settings)
        status: int = arguments.run(arguments)
        return status
    except (ValueError, OSError) as error:
        log(str(error))
    except Exception:
        traceback.print_exc()  # not status 1: that is a denial
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_program(),
        description="Admit at most so many hits per window for each application, with nothing but files.",
        epilog=_settings(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    of_settings = "a file of Apache with the settings (default: that of the installation, if LIMITER_ROOT is not set)"
    parser.add_argument("--settings", metavar="FILE", default="", help=of_settings)
    parser.add_argument("--version", action="version", version=f"limiter {limiter.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    app = ("app", {"metavar": "APP", "help": _APP})
    of_entry = f"{_APP}; or a network such as 10.0.0.0/8; .default: all other app_ids"
    of_limits = "such as '100/second;5000/hour', 0/second or unlimited"
    root = {"metavar": "ROOT", "nargs": "?", "help": "the store (default: LIMITER_ROOT)"}
    meet = {"action": "store_true", "help": "wait a minute for another node that runs the same command"}
    port = {"type": _port, "default": 8000, "help": "the port (default: 8000)"}
    asked = {"action": "store_true", "help": "answer web servers that ask whether a request may pass"}
    socket = {"metavar": "PATH", "default": "", "help": "with --check: a unix socket instead of a port"}
    _add(commands, "serve", _serve, ("--port", port), ("--check", asked), ("--socket", socket))
    as_json = ("--json", {"action": "store_true", "help": "print JSON"})
    how_long = "how long to wait for a free hit, such as 90s or 10m (default: 0)"
    wait = ("--wait", {"type": _duration, "default": 0.0, "metavar": "TIME", "help": how_long})
    _add(commands, "hit", _hit, app, wait, as_json)
    _add(commands, "show", _show, (app[0], {**app[1], "nargs": "?"}), as_json)
    delay = {
        "type": _duration,
        "default": 2.0,
        "metavar": "TIME",
        "help": "between two looks (default: 2s)",
    }
    number = {"type": int, "default": 0, "metavar": "N", "help": "end after so many looks"}
    _add(commands, "top", _top, ("--delay", delay), ("-n", {**number, "dest": "number"}))
    _add(commands, "reset", _reset, app)
    verbs = _add(commands, "apps", _apps).add_subparsers(
        dest="verb", required=True, metavar="list|set|remove"
    )
    listing = verbs.add_parser("list", help="show every app_id and its limits")
    listing.add_argument("--json", action="store_true", help="print JSON")
    setting = verbs.add_parser("set", help="add an app_id, or change its limits")
    setting.add_argument("app", metavar="APP", help=of_entry)
    setting.add_argument("limits", metavar="LIMITS", help=of_limits)
    removing = verbs.add_parser("remove", help="remove an app_id")
    removing.add_argument("app", metavar="APP", help=of_entry)
    file = {"metavar": "FILE", "nargs": "?", "help": "a file of rules (default: LIMITER_RULES)"}
    of_request = "say which rule this request meets, as 'POST /login'"
    request = {"type": _request, "metavar": "REQUEST", "help": of_request}
    _add(commands, "check-config", _check_config, ("file", file), ("--request", request))
    _add(commands, "doctor", _doctor, ("root", root), ("--meet", meet))
    times = "10m, 600 (seconds), 2h; default: 1h"
    idle = {"type": _duration, "default": HOUR, "metavar": "TIME", "help": times}
    _add(commands, "sweep", _sweep, ("--idle", idle))
    _add(commands, "metrics", _metrics)
    _add(commands, "compile", _compile)
    _add(commands, _APACHE_INSTALL, _apache_install)
    return parser


def _program() -> str:
    name = os.path.basename(sys.argv[0])
    return "python3 -m limiter" if name == "__main__.py" else name


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


def _request(text: str) -> "tuple[str, str]":
    try:
        return parse_request(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _duration(text: str) -> float:
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _UNITS else (text, "s")
    if not (number.isascii() and number.isdecimal()) or len(number) > 8:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 90s, 10m, 2h or 1d")
    return float(int(number) * _UNITS[unit])


def _serve(arguments: argparse.Namespace) -> int:
    """Serve the CGI scripts on 127.0.0.1, to try them without Apache.

    It runs cgi-bin/check.py for each request as Apache would.  Only this machine can reach it.
    With port 0 it takes a free port and prints it.

    With --check it starts no scripts.  It is a process that stays and answers as check.py does, for
    nginx (auth_request), Caddy (forward_auth) and others: docs/other-servers.md.
    """
    if arguments.check:
        serve_check(arguments.port, arguments.socket)
    elif arguments.socket:
        raise ValueError("--socket: expected --check too")
    else:
        serve(arguments.port)
    return 0


def _hit(arguments: argparse.Namespace) -> int:
    """Count a hit against an application, or deny it.

    With --wait it waits until the hit is admitted: for cron jobs that must keep to a rate.

    exit status:
      0  allowed
      1  denied, and nothing was counted
      2  no decision: a bad argument or setting, or the store failed

    Run by root, it acts as the owner of the store.
    """
    return clients.hit(arguments.app, arguments.wait, arguments.json)


def _show(arguments: argparse.Namespace) -> int:
    """Show where an application stands, or without APP the busiest; counts nothing.

    For each limit: the hits used, when the next one comes free, and the times of the last ten hits
    that count now.  A fixed limit knows only its last hit, a burst limit none.
    """
    if arguments.app is None:
        return clients.show_all(arguments.json)
    return clients.show(arguments.app, arguments.json)


def _top(arguments: argparse.Namespace) -> int:
    """Show the busiest applications again and again, as top(1) does.

    It counts nothing.  Press Ctrl-C to end.
    """
    return clients.top(arguments.delay, arguments.number)


def _reset(arguments: argparse.Namespace) -> int:
    """Forget the hits of an application.

    Processes that stay may deny it from memory for one second more.  Run by root, it acts as the owner
    of the store.
    """
    return clients.reset(arguments.app)


def _apps(arguments: argparse.Namespace) -> int:
    """List, set or remove the limits of single app_ids and of networks.

    LIMITER_APPS names the register, a directory of symbolic links: acme -> 100/second.  A limit of
    0/second bans, and unlimited frees.  An app_id that is not in it has the limits of .default, and
    gets 401 if there is no .default.  With LIMITER_KEY=env:REMOTE_ADDR there may be networks, such as
    10.0.0.0/8: the longest prefix applies.  A change applies from the next request.  Hits that count
    under the old limits count under the new ones, too.

    exit status:
      0  done
      1  remove: there is no such entry
      2  it could not be done
    """
    if arguments.verb == "list":
        return apps.show(arguments.json)
    return apps.change(arguments.app, arguments.limits if arguments.verb == "set" else None)


def _check_config(arguments: argparse.Namespace) -> int:
    """Check the rules, and the other settings of the environment.

    It prints each rule, each mistake with its place, and warnings.  docs/rules.md describes rules.

    exit status:
      0  there is no mistake
      1  there is one
    """
    return check_config(arguments.file, arguments.request)


def _doctor(arguments: argparse.Namespace) -> int:
    """Test whether a file system does what a store needs.

    It tests renames, listings, claims by several processes at once, furnishing and the clock, in a
    directory of its own below ROOT.  It does not touch the applications.

    exit status:
      0  nothing failed
      1  something failed: do not use the store in this way
      2  the store could not be tested
    """
    roots = apps.all_stores() if arguments.root is None else [os.path.abspath(arguments.root)]
    return max([doctor(root, arguments.meet) for root in roots])


def _sweep(arguments: argparse.Namespace) -> int:
    """Remove the directories of clients that got no hit for an hour.

    Hits go on meanwhile.  A directory stays as long as its limit's window, and a minute.  Run by root,
    it acts as the owner of the store.  It sweeps every store, even if one fails.
    """
    status = 0
    for root in apps.all_stores():
        try:
            sweep(root, arguments.idle)
        except StoreError as error:
            log(str(error))
            status = 2
    return status


def _metrics(_: argparse.Namespace) -> int:
    """Print metrics for Prometheus, as for node_exporter's textfile collector.

    docs/metrics.md describes them.  It counts nothing.
    """
    from limiter.status.open_metrics import metrics
    from limiter.status.survey import Survey

    print(metrics(Survey(os.environb), False), end="")
    return 0


def _compile(_: argparse.Namespace) -> int:
    """Compile the package for CGI scripts, after every update of it or of Python.

    Run it with the Python that the scripts name in their first line, as the owner of the files.
    """
    bundle.compile_all()
    print(f"Compiled {bundle.HERE} for {platform.python_implementation()} {platform.python_version()}")
    return 0


def _apache_install(_: argparse.Namespace) -> int:
    """Install the limiter for the Apache of this machine, or remove it: deploy/apache/install.

    All that follows goes to it.  docs/apache.md describes it.
    """
    program = str(shared("deploy/apache/install"))
    os.execv(program, [program, *sys.argv[2:]])
