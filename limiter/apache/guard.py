"""The door for Apache's ``Action``: it checks one hit, then becomes the script (docs/apache.md).

If a script has the handler ``limited``, Apache redirects a request for it internally to this door.  The
guard gets the script's URL as PATH_INFO and its file as PATH_TRANSLATED.  Both include the extra path
that the client wrote after the script's name.  Each variable X of the script's own request arrives as
REDIRECT_X.

A script named ``nph-`` cannot be guarded: it would write a whole response after the guard's header
fields.
"""

import posix
import sys
from errno import EACCES, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR

from limiter.cgi import admit, log, refuse
from limiter.report.problems import report_problem
from limiter.request.deadline import hang_up
from limiter.request.response import INTERNAL_SERVER_ERROR, NOT_FOUND
from limiter.request.script_deadline import is_stuck
from limiter.request.settings import Settings, parse_one_of, parse_path, parse_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from limiter.request.ruled_gate import Counter
    from limiter.request.settings import Table

GUARD: "Table" = {
    "LIMITER_GUARD_ROOT": (
        parse_path,
        "",
        "no script outside of this absolute path is run (default: none)",
    ),
    "LIMITER_SUPERVISE": (
        parse_one_of("0", "1"),
        "0",
        "1: watch the script, and answer for it if it fails",
    ),
    "LIMITER_SCRIPT_TIMEOUT": (parse_seconds, "30", "seconds without output after which it has failed"),
}
"""The settings of the guard alone."""

_RENAMED = b"REDIRECT_"
# Set by the redirect itself, after the renaming (mod_actions.c, http_request.c, util_script.c).
_ADDED = (b"HANDLER", b"STATUS", b"URL")
# Set by Apache for every request, and not changed by a redirect (util_script.c).
_KEPT = frozenset(
    b"CONTENT_LENGTH CONTENT_TYPE DOCUMENT_ROOT GATEWAY_INTERFACE LD_LIBRARY_PATH PATH QUERY_STRING"
    b" REMOTE_ADDR REMOTE_HOST REMOTE_IDENT REMOTE_PORT REMOTE_USER REQUEST_METHOD REQUEST_SCHEME"
    b" REQUEST_URI SERVER_ADDR SERVER_ADMIN SERVER_NAME SERVER_PORT SERVER_PROTOCOL SERVER_SIGNATURE"
    b" SERVER_SOFTWARE TZ".split()
)

_PHP = b"/php-cgi"
_PLACES_OF_PHP = [b"/usr/bin", b"/usr/local/bin"]

_ADVICE = {
    EACCES: "is it executable?  chmod +x",
    ENOENT: "the interpreter in its first line does not exist",
    ENOEXEC: "it needs a first line that names its interpreter, as #!/usr/bin/perl",
}


def run() -> "NoReturn":
    """If the hit is admitted, become the script or supervise it.  Otherwise answer and end the process.

    The answer is 401, 404, 429 or 500.  It is 404, and no hit is counted, if the request did not come
    from Apache's ``Action``, or if there is no script that may run.
    """
    environ = posix.environ
    try:
        script = _environ_of_script(environ)
        if script is None or not _is_confined(environ, script):
            refuse(environ, NOT_FOUND)
        # Settings of the script's directory take precedence.  The guard's own PATH_INFO and
        # PATH_TRANSLATED are not part of the script's request.
        environ = {**environ, b"PATH_INFO": b"", b"PATH_TRANSLATED": b"", **script}
        settings = Settings(environ, GUARD)
    except Exception as error:
        refuse(environ, INTERNAL_SERVER_ERROR, error)
    counters: list[Counter] | None = [] if settings.supervise == "1" else None
    admit(environ, counters)
    try:
        _start(environ, script, settings, counters)
    except Exception as error:
        refuse(environ, INTERNAL_SERVER_ERROR, error)


def _environ_of_script(environ: "Mapping[bytes, bytes]") -> "dict[bytes, bytes] | None":
    """Return the environment that Apache would have given to the script.

    None if the request did not come from ``Action``, or if there is no such script.  The guard cannot
    learn everything from Apache:

    - AUTH_TYPE is missing.  HTTP_AUTHORIZATION is missing too, unless CGIPassAuth is on for the guard.
    - CONTEXT_PREFIX and CONTEXT_DOCUMENT_ROOT are missing outside the document root.
    - PATH_TRANSLATED is the extra path below the document root; aliases and indexes are ignored.
    - REDIRECT_URL and REDIRECT_QUERY_STRING are missing if the script's own request was redirected.
    """
    url = environ.get(b"PATH_INFO", b"")
    # Only mod_actions sets HANDLER, just before it redirects; it appends the script's URL to its own.
    # A client's header would be HTTP_X, and another redirect would make it REDIRECT_REDIRECT_HANDLER.
    # With QualifyRedirectURL, REDIRECT_URL is a complete URL.
    if b"REDIRECT_HANDLER" not in environ or not environ.get(b"REDIRECT_URL", b"").endswith(url):
        return None
    path = environ.get(b"PATH_TRANSLATED", b"")
    file = _file(path)
    if not file:
        return None
    cut = len(_RENAMED)
    script = {}
    for name, value in environ.items():
        if name in _KEPT or name[:5] == b"HTTP_":
            script[name] = value
        elif name[:cut] == _RENAMED and name[cut:] not in _ADDED:
            script.setdefault(name[cut:], value)
    script[b"SCRIPT_FILENAME"] = file
    _divide(script, url, path[len(file) :])
    return script


def _divide(script: "dict[bytes, bytes]", url: bytes, extra: bytes) -> None:
    """Separate the script's URL from the extra path after it, and set the variables for both."""
    document_root = script.get(b"DOCUMENT_ROOT", b"")
    name = url[: len(url) - len(extra)] if url.endswith(extra) else url
    script[b"SCRIPT_NAME"] = name
    if extra:
        script[b"PATH_INFO"] = extra
        script[b"PATH_TRANSLATED"] = document_root + extra
    if document_root + name == script[b"SCRIPT_FILENAME"]:
        script[b"CONTEXT_PREFIX"] = b""
        script[b"CONTEXT_DOCUMENT_ROOT"] = document_root


def _file(path: bytes) -> bytes:
    """Return the regular file that the path begins with; nothing if there is none."""
    while path:
        try:
            mode = posix.stat(path).st_mode
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR, ENAMETOOLONG):
                raise
            path = path.rpartition(b"/")[0]
        else:
            return path if mode & 0o170000 == 0o100000 else b""
    return b""


def _is_confined(environ: "Mapping[bytes, bytes]", script: "Mapping[bytes, bytes]") -> bool:
    """Return whether the script is below LIMITER_GUARD_ROOT, after links are resolved.  If not, log it.

    The guard's directory and the script's directory may both set it, and both values apply.  Users who
    can change links before the script starts are trusted.
    """
    for variables in (environ, script):
        root = Settings(variables, GUARD).guard_root
        if not root:
            continue
        real = _real(script[b"SCRIPT_FILENAME"])
        if not real.startswith(_real(root.encode("utf-8", "surrogateescape")).rstrip(b"/") + b"/"):
            log(f"{real!r} is not run: it is not below LIMITER_GUARD_ROOT={root!r}")
            return False
    return True


def _real(path: bytes) -> bytes:
    """Return the path with all links resolved by the kernel."""
    number = posix.open(path, posix.O_PATH)
    try:
        return posix.readlink(b"/proc/self/fd/%d" % number)
    finally:
        posix.close(number)


def _start(
    environ: "Mapping[bytes, bytes]",
    script: "dict[bytes, bytes]",
    settings: Settings,
    counters: "list[Counter] | None",
) -> "NoReturn":
    """Let the script answer, and count that if a rule says so.  Raises OSError if it cannot be started."""
    parent = posix.getppid()
    if is_stuck() and posix.fork():
        # A process with a stuck thread cannot become another program: execve would wait for the thread.
        # A child does not have that thread.
        hang_up()
        posix._exit(0)
    if settings.supervise == "0":
        _become(script, parent)
    from limiter.scripts.supervise import supervise

    script.setdefault(b"PYTHONFAULTHANDLER", b"1")

    def count(status: str) -> None:
        from limiter.request.script_deadline import call_within

        for counter in counters or ():
            counter.count(status, lambda problem: report_problem(environ, problem, log), call_within)

    supervise(environ, settings.script_timeout, lambda: _become(script, parent), count)


def _become(script: "dict[bytes, bytes]", parent: int) -> "NoReturn":
    """Execute the script in its directory.  Raises OSError if that fails."""
    _restore_signals(parent)
    file = script[b"SCRIPT_FILENAME"]
    posix.chdir(file.rpartition(b"/")[0] or b"/")
    if file.endswith(b".php"):
        _become_php(script)
    # The words of a query without "=" are arguments (RFC 3875, 4.4).
    arguments: list[bytes | str] = [file, *sys.argv[1:]]
    try:
        posix.execve(file, arguments, script)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if not advice:
            raise
        name = _name(script)
        raise OSError(error.errno, f"{error.strerror} ({advice})", name) from error


def _name(script: "Mapping[bytes, bytes]") -> str:
    return script[b"SCRIPT_FILENAME"].decode("utf-8", "surrogateescape")


def _restore_signals(parent: int) -> None:
    """Stop ignoring signals that the parent, Apache, does not ignore.

    Python ignores SIGPIPE and SIGXFSZ, and the script would inherit that.  Scripts of mod_cgi inherit
    the signals that their parent ignores; the parent of mod_cgid's scripts ignores none.
    """
    import _signal

    number = posix.open(f"/proc/{parent}/status", posix.O_RDONLY)
    ignored = posix.read(number, 4096).partition(b"SigIgn:")[2].split(None, 1)[0]
    posix.close(number)
    for signal in (_signal.SIGPIPE, _signal.SIGXFSZ):
        if not int(ignored, 16) >> signal - 1 & 1:
            _signal.signal(signal, _signal.SIG_DFL)


def _become_php(script: "dict[bytes, bytes]") -> "NoReturn":
    script.setdefault(b"REDIRECT_STATUS", b"200")  # php-cgi runs nothing without it
    # With REDIRECT_URL set, php-cgi would run PATH_TRANSLATED as the script.
    script.pop(b"REDIRECT_URL", None)
    places = [it for it in script.get(b"PATH", b"").split(b":") if it[:1] == b"/"]
    for place in _PLACES_OF_PHP + places:
        try:
            # Never pass arguments: php-cgi would read options from the words of a query (CVE-2012-1823).
            posix.execve(place + _PHP, [place + _PHP], script)
        except FileNotFoundError:
            pass
    advice = "php-cgi is not installed (apt-get install php-cgi)"
    raise FileNotFoundError(ENOENT, advice, _name(script))
