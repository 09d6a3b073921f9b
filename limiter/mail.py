"""Mails on problems: one of a kind in a minute, sent by a process of its own.

Whether there is to be one is decided by the limiter itself, in its default store (``limiter.furnish``), for the one
that is set may be what has failed.  The next mail of that kind tells how many were not sent.

Apache ends a script that outlives its answer, and waits for whatever has its standard output or error open.
So a mail is handed over, in a pipe, to an interpreter of its own (``limiter.mailer``), which leaves at once a child
that nobody waits for, and that has none of these open.  Standard error is its own only if that is a file; if it was to
have the log, the system's log gets the line on a mail that fails.
"""

import posix
import sys
from _signal import SIGTERM

from limiter.digest import sha256
from limiter.furnish import default_root
from limiter.limiter import Limiter
from limiter.reporter import NAMES
from limiter.tally import add, read, take

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

LIMIT = "1/minute"
"""Mails of one kind."""

_MAILER = "import sys; sys.path.insert(0, {!r}); from limiter.mailer import main; main()"
# What the mailer needs to know: how to report, and what its mails say.
_VARIABLES = [name.encode() for name in NAMES]
# Of st_mode, as in the module stat.
_TYPE = 0o170000
_REGULAR = 0o100000


def send(environ: "Mapping[bytes, bytes]", line: bytes, kind: str) -> str:
    """Have a mail sent about a line of the journal, unless there was one of that kind; why that fails.

    The process has no child by it when this returns.
    """
    try:
        temporary = environ.get(b"TMPDIR") or b"/tmp"
        root = default_root(temporary.decode("utf-8", "surrogateescape"))
        name = "mail-" + sha256(kind.encode("utf-8", "surrogatepass"))[:32]
        # Before the hit: whatever is counted after it is for the next mail to tell.
        suppressed = read(root, name)
        if not Limiter(root, LIMIT).hit(name):
            add(root, name)
            return ""
        suppressed = take(root, name, suppressed)
        try:
            _hand_over(environ, line, [root, name, str(suppressed)])
        except OSError:
            add(root, name, suppressed + 1)
            raise
    except OSError as error:
        return f"No mail: {type(error).__name__}: {error}"
    return ""


def _hand_over(environ: "Mapping[bytes, bytes]", line: bytes, arguments: "list[str]") -> None:
    python = _python()
    package = __file__.rpartition("/")[0].rpartition("/")[0]
    command = [python, "-ISB", "-c", _MAILER.format(package), *arguments]
    variables = {name: environ[name] for name in _VARIABLES if name in environ}
    reading, writing = posix.pipe()
    actions: list[tuple[object, ...]] = [
        (posix.POSIX_SPAWN_DUP2, reading, 0),
        (posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0),
    ]
    if not _is_file(2):
        # Somebody may wait for its end.
        actions.append((posix.POSIX_SPAWN_OPEN, 2, "/dev/null", posix.O_WRONLY, 0))
        if variables.get(b"LIMITER_LOG", b"stderr") == b"stderr":
            variables[b"LIMITER_LOG"] = b"syslog"
    try:
        posix.write(writing, line)  # a pipe has room for a line before anybody reads it
        child = posix.posix_spawn(
            python, command, variables, file_actions=actions, setsigmask=[], setsigdef=[SIGTERM]
        )
    finally:
        posix.close(reading)
        posix.close(writing)
    try:
        _, status = posix.waitpid(child, 0)
    except ChildProcessError:
        return  # a server that ignores its children does not learn how they end
    if status:
        raise OSError(f"{python} ended with status {status}")


def _is_file(number: int) -> bool:
    try:
        return posix.fstat(number).st_mode & _TYPE == _REGULAR
    except OSError:
        return False


def _python() -> str:
    """An interpreter: this one, or the one of the same version where a server has it within itself."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = sys.executable or ""
    places = [own] if own.rpartition("/")[2].startswith("python") else []
    for path in [*places, f"{sys.base_exec_prefix}/bin/{name}", f"/usr/bin/{name}", "/usr/bin/python3"]:
        if posix.access(path, posix.X_OK):
            return path
    raise FileNotFoundError(f"There is no {name} to send mails with")
