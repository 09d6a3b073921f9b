"""The log: each problem is one line, a JSON object, on standard error, in the system's log or in a file.

docs/errors.md shows a line, and says what its readers can rely on and which files are trusted.  Unknown
values are left out.  Secrets are masked (``limiter.report.masking``).  Control characters and non-ASCII
characters are escaped.  A log file is opened for each line.
"""

import json
import posix
from stat import S_ISREG, S_IWOTH
from time import gmtime, sleep, strftime, time_ns

from limiter.report.masking import mask, mask_query
from limiter.request.key import Key
from limiter.request.secret_keys import may_report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LENGTH_MOST = 4095
"""The longest line, in bytes, with its newline."""

_DEV_LOG = "/dev/log"
# Facility "daemon" (3), and the severities "error" and "warning" (RFC 5424, 6.2.1).
_SEVERE = 3 * 8 + 3
_LESS_SEVERE = 3 * 8 + 4

_FLAGS = posix.O_RDWR | posix.O_APPEND | posix.O_CREAT | posix.O_NOFOLLOW | posix.O_CLOEXEC

# Seconds.  If an unfinished last line does not grow for so long, no process is still writing it.
_WRITING_MOST = 0.05

# The first limit for each text, in characters.  An escaped character takes six or twelve bytes.
_MOST = {"reason": 1500, "query": 500, "where": 300, "script": 300, "path": 300, "method": 64}
_ID_MOST = 64
_ADDRESS_MOST = 64  # an IPv6 address with a zone is shorter
_FRAME_MOST = 200
# The stack is halved until so few calls are left.  Then the texts are cut, down to an eighth.
_FRAMES_LEAST = 5
_PART_LEAST = 8


def compose(
    environ: "Mapping[bytes, bytes]",
    status: "int | None",
    reason: str,
    where: str,
    stack: str,
    sample: "int | None",
) -> bytes:
    """Return the log line for a problem with the request that these CGI variables describe.

    ``status`` is what the client got, or should have got; None if no request is concerned.  ``where`` is
    ``file:line``.  ``stack`` has a line for each call, the innermost first.  ``sample`` is n if one such
    line in n is written.  The result ends with a newline and has at most ``LENGTH_MOST`` bytes.
    """
    now = time_ns() // 1000
    query = environ.get(b"QUERY_STRING", b"")
    entry = {
        "time": strftime("%Y-%m-%dT%H:%M:%S", gmtime(now // 1_000_000)) + f".{now % 1_000_000:06}Z",
        "id": _decode(environ.get(b"UNIQUE_ID", b""))[:_ID_MOST],
        "pid": posix.getpid(),
        "app_id": _app_id(environ, query),
        "status": status,
        "sample": sample,
        "reason": mask(_printable(reason)),
        "where": _printable(where),
        "stack": [_cut(mask(_printable(line.strip())), _FRAME_MOST) for line in stack.splitlines()],
        "address": _decode(environ.get(b"REMOTE_ADDR", b""))[:_ADDRESS_MOST],
        "method": _decode(environ.get(b"REQUEST_METHOD", b"")),
        "script": _decode(environ.get(b"SCRIPT_FILENAME", b"")),
        "path": mask(_decode(environ.get(b"SCRIPT_NAME", b"") + environ.get(b"PATH_INFO", b""))),
        "query": mask_query(_decode(query)),
    }
    return _fit(entry)


def write(place: str, line: bytes, severe: bool) -> str:
    """Write the line to ``stderr``, ``syslog`` or the file ``place``.  Return an error message, or "".

    If that fails, the line goes to standard error.
    """
    try:
        if place == "syslog":
            _write_to_syslog(line, severe)
        elif place != "stderr":
            _append(place, line)
        else:
            _write_to_stderr(line)
        return ""
    except OSError as error:
        _write_to_stderr(line)
        return f"LIMITER_LOG={place!r:.200}: {type(error).__name__}: {error}"


def _fit(entry: "dict[str, Any]") -> bytes:
    """Return the line for this entry, with stack and texts cut until it is short enough."""
    frames = entry["stack"]
    most, part = len(frames), 1
    while True:
        cut = {name: _cut(entry[name], limit // part) for name, limit in _MOST.items()}
        # Outer calls are the least useful, so they are cut first.
        cut["stack"] = frames[:most] + ["..."] * (0 < most < len(frames))
        all_of_it = {**entry, **cut}
        kept = {
            name: it for name, it in all_of_it.items() if it not in ("", None, []) or name == "status"
        }
        line = json.dumps(kept).encode() + b"\n"
        if len(line) <= LENGTH_MOST:
            return line
        if most > _FRAMES_LEAST or part > _PART_LEAST:
            most //= 2
        else:
            part *= 2


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _decode(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _printable(text: str) -> str:
    """Escape lone surrogates, because many JSON parsers reject them."""
    return text.encode("utf-8", "backslashreplace").decode()


def _app_id(environ: "Mapping[bytes, bytes]", query: bytes) -> str:
    text = _decode(environ.get(b"LIMITER_KEY") or b"app_id")
    if not may_report(text):
        return ""  # it may be a token, and its stored hash would not help
    try:
        return Key(text).find(environ.get, query) or ""
    except ValueError:
        return ""  # a mistake in LIMITER_KEY has a log line of its own


def _write_to_stderr(line: bytes) -> None:
    try:
        posix.write(2, line)
    except OSError:
        pass  # there is nowhere left to report it


def _write_to_syslog(line: bytes, severe: bool) -> None:
    import socket

    head = f"<{_SEVERE if severe else _LESS_SEVERE}>limiter[{posix.getpid()}]: ".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.settimeout(1)
        log.connect(_DEV_LOG)
        log.send(head + line.rstrip(b"\n"))


def _append(path: str, line: bytes) -> None:
    file = posix.open(path, _FLAGS, 0o640)
    try:
        found = posix.fstat(file)
        if not S_ISREG(found.st_mode):
            raise OSError(f"{path!r:.200} is not a regular file")
        directory = posix.stat(path.rpartition("/")[0] or "/")
        is_own = found.st_uid == posix.geteuid() and found.st_nlink == 1
        if directory.st_mode & S_IWOTH and not is_own:
            raise OSError(
                f"{path!r:.200} may belong to somebody else: anybody may write to its directory"
            )
        if not found.st_size and posix.geteuid() == 0:
            posix.fchown(file, directory.st_uid, directory.st_gid)
        # A full disk may have cut off the last line.  It must not run into this one.
        if _is_cut_off(file):
            line = b"\n" + line
        if posix.write(file, line) < len(line):
            raise OSError(f"{path!r:.200}: there was no room for all of the line")
    finally:
        posix.close(file)


def _is_cut_off(file: int) -> bool:
    """Return whether the last line has no newline, and no other process is still writing it."""
    before = -1
    while True:
        size = posix.fstat(file).st_size
        if not size or posix.pread(file, 1, size - 1) == b"\n":
            return False
        if size == before:
            return True
        before = size
        sleep(_WRITING_MOST)
