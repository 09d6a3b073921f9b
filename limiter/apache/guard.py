"""The door for Apache's ``Action``: it checks one hit, then becomes the requested script.

If a script has the handler ``limited``, Apache redirects a request for it internally to this door.  The
guard gets the script's URL as PATH_INFO and its file as PATH_TRANSLATED.  Both include the extra path
that the client wrote after the script's name.  Each variable X of the script's own request arrives as
REDIRECT_X.  The script gets the environment that Apache would have given it, except for what the guard
cannot learn from Apache:

- AUTH_TYPE is missing.  HTTP_AUTHORIZATION is missing too, unless CGIPassAuth is on for the guard.
- CONTEXT_PREFIX and CONTEXT_DOCUMENT_ROOT are missing outside the document root.
- PATH_TRANSLATED is the extra path below the document root; aliases and indexes are ignored.
- REDIRECT_URL and REDIRECT_QUERY_STRING are missing if the script's own request had been redirected.

A script whose name ends in ``.php`` is run by php-cgi.  Any other script is run by the interpreter in
its first line.  A script named ``nph-`` cannot be guarded: it would write a whole response after the
guard's header fields.

Two settings belong to this door alone.  ``LIMITER_GUARD_ROOT`` is an absolute path: only files below it
are run, after links are resolved.  The guard's directory and the script's directory may both set it, and
both values apply.  The path is checked before the script starts.  Users who can change links in between
are trusted.

With ``LIMITER_SUPERVISE=1`` (the default is 0) the guard keeps running, and answers if the script fails
(``limiter.scripts.supervise``).  The value from the script's directory takes precedence.
"""

import posix
import sys
from errno import EACCES, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR

from limiter.cgi import admit, log, refuse
from limiter.report.problems import report_problem
from limiter.request.deadline import hang_up, is_stuck
from limiter.request.response import INTERNAL_SERVER_ERROR, NOT_FOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from limiter.scripts.supervise import Supervisor

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

_ROOT = b"LIMITER_GUARD_ROOT"
_SUPERVISE = b"LIMITER_SUPERVISE"

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
    status, script, supervisor = NOT_FOUND, None, None
    report = None
    try:
        script = _environ_of_script(environ)
        if script is not None:
            if not _is_confined(script[b"SCRIPT_FILENAME"], environ):
                script = None
            else:
                # Settings of the script's directory take precedence.  The guard's own PATH_INFO and
                # PATH_TRANSLATED are not part of the script's request.
                environ = {**environ, b"PATH_INFO": b"", b"PATH_TRANSLATED": b"", **script}
                supervisor = _supervisor(environ)
    except Exception as error:
        report = _report_of(environ, error, log)
        status, script = INTERNAL_SERVER_ERROR, None
    if script is None:
        refuse(environ, status, report)
    admit(environ)
    try:
        _start(script, supervisor)
    except Exception as error:
        file = script[b"SCRIPT_FILENAME"].decode("utf-8", "surrogateescape")
        report = _report_of(environ, error, lambda reason: log(f"{file}: {reason}"))
    refuse(script, INTERNAL_SERVER_ERROR, report)


def _report_of(
    environ: "Mapping[bytes, bytes]", error: Exception, log: "Callable[[str], None]"
) -> "Callable[[], None]":
    return lambda: report_problem(environ, error, log)


def _environ_of_script(environ: "Mapping[bytes, bytes]") -> "dict[bytes, bytes] | None":
    """Return the environment that Apache would have given to the script.

    None if the request did not come from ``Action``, or if there is no such script.
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
    script = {name[cut:]: value for name, value in environ.items() if name[:cut] == _RENAMED}
    for name in _ADDED:
        script.pop(name, None)
    for name, value in environ.items():
        if name in _KEPT or name[:5] == b"HTTP_":
            script[name] = value
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


def _is_confined(file: bytes, environ: "Mapping[bytes, bytes]") -> bool:
    """Return whether the file is below LIMITER_GUARD_ROOT.  If it is not, log it.

    Raises ValueError if LIMITER_GUARD_ROOT is no absolute path.
    """
    for name in (_ROOT, _RENAMED + _ROOT):
        root = environ.get(name)
        if not root:
            continue
        if root[:1] != b"/":
            raise ValueError(f"LIMITER_GUARD_ROOT={root!r:.200}: expected an absolute path")
        real = _real(file)
        if not real.startswith(_real(root).rstrip(b"/") + b"/"):
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


def _supervisor(environ: "Mapping[bytes, bytes]") -> "Supervisor | None":
    """Return the supervisor that runs the script; None if the guard becomes the script."""
    value = environ.get(_SUPERVISE) or b"0"
    if value == b"0":
        return None
    if value != b"1":
        raise ValueError(f"LIMITER_SUPERVISE={value!r:.200}: expected 1 or 0")
    from limiter.scripts.supervise import Supervisor

    return Supervisor(environ)


def _start(script: "dict[bytes, bytes]", supervisor: "Supervisor | None") -> None:
    """Let the script answer.  Returns or raises OSError only if the script cannot be started."""
    parent = posix.getppid()
    if is_stuck() and posix.fork():
        # A process with a stuck thread cannot become another program: execve would wait for the thread.
        # A child does not have that thread.
        hang_up()
        posix._exit(0)
    if supervisor is None:
        _become(script, parent)
        return
    script.setdefault(b"PYTHONFAULTHANDLER", b"1")
    supervisor.run(lambda: _become(script, parent))


def _become(script: "dict[bytes, bytes]", parent: int) -> None:
    """Execute the script in its directory.  Returns or raises OSError only if that fails."""
    _restore_signals(parent)
    file = script[b"SCRIPT_FILENAME"]
    posix.chdir(file.rpartition(b"/")[0] or b"/")
    if file.endswith(b".php"):
        _become_php(script)
        return
    # The words of a query without "=" are arguments (RFC 3875, 4.4).
    arguments: list[bytes | str] = [file, *sys.argv[1:]]
    try:
        posix.execve(file, arguments, script)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if not advice:
            raise
        raise OSError(error.errno, f"{error.strerror} ({advice})") from error


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


def _become_php(script: "dict[bytes, bytes]") -> None:
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
    raise FileNotFoundError(ENOENT, "php-cgi is not installed (apt-get install php-cgi)")
