"""The command line: ``python3 -m limiter serve | hit | show | apps | doctor | sweep | compile``."""

import argparse
import os
import platform
import signal
import sys
from datetime import datetime, timedelta, timezone

import limiter
from limiter.cgi import log
from limiter.core.hit import Decision
from limiter.core.limiter import Limiter
from limiter.core.notation import parse
from limiter.core.privileges import become_owner
from limiter.core.store import StoreError, is_app
from limiter.core.sweep import sweep
from limiter.doctor.command import doctor
from limiter.request import register
from limiter.request.key import Key
from limiter.request.settings import Settings
from limiter.tools import bundle
from limiter.tools.serve import HOST, serve

_SETTINGS = """\
settings (environment variables):
  LIMITER_ROOT      the store, an absolute path that exists; several with ':' between
                    them have a part of the app_ids each
                    (default: limiter-UID in $TMPDIR or /tmp, made when missing)
  LIMITER_LIMIT     the limits, ';' between several, such as '100/minute;1000/hour',
                    '10 per 2 seconds', '5000/hour fixed', '5/second burst 20'
                    (default: 10/second)
  LIMITER_NODES     how many nodes have a store each, and a share of the limits
                    (default: 1)
  LIMITER_APPS      the register, a directory: see 'apps --help'
                    (default: none, every app_id has LIMITER_LIMIT)
  LIMITER_KEY       where a request's app_id comes from: a parameter's name,
                    header:NAME or env:NAME (default: app_id)
  LIMITER_TRUSTED_PROXIES
                    addresses and networks whose X-Forwarded-For tells who asks,
                    with LIMITER_KEY=env:REMOTE_ADDR (default: none)
  LIMITER_MODE      enforce, shadow (admit, and log what would have been denied)
                    or off (default: enforce)
  LIMITER_ON_ERROR  deny or admit when the store fails (default: deny)
  LIMITER_TIMEOUT   seconds after which a silent store has failed (default: 2)
"""
_REGISTER = """\
LIMITER_APPS names the register, a directory of symbolic links: acme -> 100/second.  A limit of
0/second bans, and unlimited frees.  Who is not in it has the limits of .default, and gets 401
if there is none.  A change holds at the next request.

exit status:
  0  done
  1  remove: there is no such app_id
  2  it could not be done
"""
_APP = (
    "the app_id; with LIMITER_KEY header:NAME or env:NAME the value that is sent; '-' reads it from standard"
    " input, where no other user sees it"
)
_LAST_HITS = 10
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def main() -> int:
    """Run the command that the arguments name, and return the exit status.

    0: done, or the hit was allowed; 1: the hit was denied; 2: it could not be done.
    """
    arguments = _parser().parse_args()
    try:
        if arguments.command == "serve":
            serve(arguments.port)
            return 0
        # If nobody reads the output, end at once, as other tools do.  The server must go on.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        if arguments.command == "compile":
            return _compile()
        settings = Settings(os.environb)
        key = Key(settings.key, settings.proxies)
        if "app" in arguments:
            arguments.app = _app_id(arguments.app, key)
        if arguments.command == "apps":
            return _apps(arguments, settings)
        if arguments.command in ("doctor", "sweep"):
            return _examine_or_sweep(arguments, settings)
        return _hit_or_show(arguments, settings)
    except (ValueError, OSError) as error:
        log(str(error))
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
        parser_with_app.add_argument("app", metavar="APP", help=_APP)
    apps = command("apps", "list, set or remove who may ask, and how often", _REGISTER)
    verbs = apps.add_subparsers(dest="verb", required=True, metavar="list|set|remove")
    verbs.add_parser("list", help="show every app_id and its limits")
    setting = verbs.add_parser("set", help="add one, or change its limits; holds at the next request")
    setting.add_argument("app", metavar="APP", help=f"{_APP}; or .default: everybody else")
    setting.add_argument(
        "limits", metavar="LIMITS", help="such as '100/second;5000/hour', 0/second or unlimited"
    )
    removing = verbs.add_parser("remove", help="remove one: it then has .default's limits, or gets 401")
    removing.add_argument("app", metavar="APP", help=f"{_APP}; or .default")
    examining = command(
        "doctor",
        "find out whether a file system keeps what a store needs",
        "It tries, in a directory of its own below ROOT, renames, listings, claims by several processes at\n"
        "once, furnishing and the clock, and disturbs no application.\n\n"
        "exit status:\n  0  nothing failed\n  1  something did: the store must not be used so\n"
        "  2  it could not be tried\n",
    )
    examining.add_argument("root", metavar="ROOT", nargs="?", help="the store (default: LIMITER_ROOT)")
    examining.add_argument(
        "--meet",
        action="store_true",
        help="wait a minute for another node that runs the same, and try both",
    )
    command(
        "sweep",
        "remove applications that nobody has asked for in a day",
        "Hits go on meanwhile.  Run by root, it acts as the owner of the store.\n",
    )
    command(
        "compile",
        "compile the package for CGI scripts, after every update of it or of Python",
        "Run it with the Python that the scripts name in their first line, as the owner of the files.\n",
    )
    return parser


def _app_id(text: str, key: Key) -> str:
    """Return the app_id of a client that sends ``text`` as the key's value.

    If the key is a parameter, the app_id is the text itself.  ``-`` reads the text from standard input.
    """
    if text == "-":
        text = sys.stdin.readline().rstrip("\n")
    if key.variable is None or text == register.DEFAULT:
        return text
    return key.find({key.variable: os.fsencode(text)}.get) or text


def _compile() -> int:
    bundle.compile_all()
    print(f"Compiled {bundle.HERE} for {platform.python_implementation()} {platform.python_version()}")
    return 0


def _examine_or_sweep(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run the command for every store, even if one fails.  Return the greatest status."""
    roots = settings.roots or (settings.root(""),)
    if arguments.command == "sweep":
        return max([_sweep(root) for root in roots])
    if arguments.root is not None:
        roots = (os.path.abspath(arguments.root),)
    return max([doctor(root, arguments.meet) for root in roots])


def _sweep(root: str) -> int:
    try:
        return sweep(root)
    except StoreError as error:
        log(str(error))
        return 2


def _apps(arguments: argparse.Namespace, settings: Settings) -> int:
    if not settings.apps:
        raise ValueError("LIMITER_APPS is not set (set it to the register's directory)")
    if arguments.verb == "list":
        for name, limits in register.entries(settings.apps):
            print(f"{name}\t{limits}")
        return 0
    if not is_app(arguments.app) and arguments.app != register.DEFAULT:
        raise ValueError(
            f"app_id {arguments.app!r:.200}: expected 1 to 64 letters, digits, '.', '_' and '-',"
            f" beginning with a letter or a digit, or {register.DEFAULT}"
        )
    if arguments.verb == "set":
        if arguments.limits != register.UNLIMITED:
            parse(arguments.limits)
        register.put(settings.apps, arguments.app, arguments.limits)
        return 0
    if register.remove(settings.apps, arguments.app):
        return 0
    print(f"limiter: {arguments.app} is not in the register {settings.apps}", file=sys.stderr)
    return 1


def _hit_or_show(arguments: argparse.Namespace, settings: Settings) -> int:
    app = arguments.app
    limits = _limits_of(app, settings)
    if limits == register.UNLIMITED:
        print(f"{app}: unlimited")
        return 0
    root = settings.root(app)
    chosen = Limiter(root, settings.share(limits))
    if arguments.command == "hit":
        become_owner(root)
        return _hit(chosen, app)
    return _show(chosen, app, root)


def _limits_of(app: str, settings: Settings) -> str:
    if not settings.apps or not is_app(app):
        return settings.limits
    entry = register.look_up(settings.apps, app)
    if entry is None:
        raise ValueError(f"{app} is not in the register {settings.apps}, which has no .default (401)")
    return entry[1]


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 65535")
    return int(text)


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
