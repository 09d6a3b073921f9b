"""The door for Apache's ``Action``: checks one hit, then becomes the script that was asked for.

Apache redirects a request for a script with the handler ``limited`` to this door, within itself.  It
gives the script's URL as PATH_INFO and its file as PATH_TRANSLATED, both with the extra path that the
client wrote behind the script's name, and each variable X of the script's own request as REDIRECT_X.
The script gets the environment that Apache would have given it, but for what Apache does not tell here:

- AUTH_TYPE is missing, and HTTP_AUTHORIZATION too: CGIPassAuth must be on for the guard.
- CONTEXT_PREFIX and CONTEXT_DOCUMENT_ROOT are missing outside the document root.
- PATH_TRANSLATED is the extra path below the document root, whatever aliases and indexes say.
- REDIRECT_URL and REDIRECT_QUERY_STRING are missing if the script's own request had been redirected.

A script whose name ends in ``.php`` is run by php-cgi, any other by its own first line.  A script named
``nph-`` cannot be guarded: it would write a whole response behind the fields of the guard.

``LIMITER_GUARD_ROOT``, an absolute path, is a setting of this door alone: no other file is run than
those below it, wherever links lead.  Both the guard's own and the script's directory may set it, and
both hold.  It is checked before the script starts: who may change links meanwhile is trusted.

``LIMITER_SUPERVISE`` is another one: with 1 (the default is 0) the guard stays, and answers for a script that
fails (``limiter.supervise``).  What the script's directory sets goes first.
"""

import posix
import sys
from errno import EACCES, ENAMETOOLONG, ENOENT, ENOEXEC, ENOTDIR

from limiter import deadline
from limiter.cgi import admit, log, refuse
from limiter.response import INTERNAL_SERVER_ERROR, NOT_FOUND
from limiter.verdict import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import NoReturn

    from limiter.supervise import Supervisor

_RENAMED = b"REDIRECT_"
# What the redirect itself has set, after the renaming (mod_actions.c, http_request.c, util_script.c).
_ADDED = (b"HANDLER", b"STATUS", b"URL")
# What Apache sets for every request, and that a redirect does not change (util_script.c).
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
    """Become the script, or supervise it, if the hit is admitted; else answer and end the process.

    The answer is 401, 404, 429 or 500: 404, and no hit is counted, unless Apache's ``Action`` has brought the
    request here and there is a script that may run.
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
                # What the script's own directory sets goes before what the guard's does, whose path is none here.
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
    return lambda: tell(environ, error, log)


def _environ_of_script(environ: "Mapping[bytes, bytes]") -> "dict[bytes, bytes] | None":
    """What Apache would have given to the script; None if it has not brought this request here."""
    url = environ.get(b"PATH_INFO", b"")
    # mod_actions alone sets HANDLER, for the URL that it appends to its own, just before it redirects.
    # A client's header would be HTTP_X, and any further redirect makes it REDIRECT_REDIRECT_HANDLER.
    # The URL is a whole one with QualifyRedirectURL.
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
    """Tell the script's URL from the extra path behind it."""
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
    """The regular file that the path begins with; nothing if there is none."""
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
    """Whether the file lies below LIMITER_GUARD_ROOT.  A file that does not is logged."""
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
    """The path without links, as the kernel knows it."""
    number = posix.open(path, posix.O_PATH)
    try:
        return posix.readlink(b"/proc/self/fd/%d" % number)
    finally:
        posix.close(number)


def _supervisor(environ: "Mapping[bytes, bytes]") -> "Supervisor | None":
    """Who runs the script; None if the guard becomes it."""
    value = environ.get(_SUPERVISE) or b"0"
    if value == b"0":
        return None
    if value != b"1":
        raise ValueError(f"LIMITER_SUPERVISE={value!r:.200}: expected 1 or 0")
    from limiter.supervise import Supervisor

    return Supervisor(environ)


def _start(script: "dict[bytes, bytes]", supervisor: "Supervisor | None") -> None:
    """Let the script answer.  Returns, or raises OSError, only if it cannot be started."""
    parent = posix.getppid()
    if deadline.is_stuck() and posix.fork():
        # A process with a thread that is stuck cannot become another: execve would wait for the thread.
        # A child has no such thread.
        deadline.hang_up()
        posix._exit(0)
    if supervisor is None:
        _become(script, parent)
        return
    script.setdefault(b"PYTHONFAULTHANDLER", b"1")
    supervisor.run(lambda: _become(script, parent))


def _become(script: "dict[bytes, bytes]", parent: int) -> None:
    """Execute the script in its directory.  Returns, or raises OSError, only if that fails."""
    _restore_signals(parent)
    file = script[b"SCRIPT_FILENAME"]
    posix.chdir(file.rpartition(b"/")[0] or b"/")
    if file.endswith(b".php"):
        _become_php(script)
        return
    # Words of a query without "=" are arguments (RFC 3875, 4.4).
    arguments: list[bytes | str] = [file, *sys.argv[1:]]
    try:
        posix.execve(file, arguments, script)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if not advice:
            raise
        raise OSError(error.errno, f"{error.strerror} ({advice})") from error


def _restore_signals(parent: int) -> None:
    """Ignore no signal that Apache, the parent, does not: Python does, and what is ignored stays so.

    mod_cgi's scripts inherit what their parent ignores, and mod_cgid's parent ignores nothing.
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
    # Beside this, php-cgi would take PATH_TRANSLATED for the script.
    script.pop(b"REDIRECT_URL", None)
    places = [it for it in script.get(b"PATH", b"").split(b":") if it[:1] == b"/"]
    for place in _PLACES_OF_PHP + places:
        try:
            # No arguments ever: php-cgi would read options from a query's words (CVE-2012-1823).
            posix.execve(place + _PHP, [place + _PHP], script)
        except FileNotFoundError:
            pass
    raise FileNotFoundError(ENOENT, "php-cgi is not installed (apt-get install php-cgi)")
