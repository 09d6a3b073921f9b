"""Mails about problems: at most one a minute for each kind, each sent by a process of its own.

The limiter itself decides whether to send a mail.  It uses its default store (``limiter.request.default_store``),
because the configured store may be what has failed.

Apache ends a script that runs on after its answer, and waits for every process that has the script's
standard output or error open.  So the mail goes through a pipe to another interpreter
(``limiter.report.mail_process``).  That interpreter starts a child and ends at once.  Nobody waits for
the child, and it has none of these files open.  It keeps standard error only if that is a file.  If
standard error is not a file and the log should go there, a failed mail is reported in the system's log.
"""

import posix
import sys
from _signal import SIGTERM
from stat import S_ISREG

from limiter.core.limiter import Limiter
from limiter.report.counter import add, read, take
from limiter.report.settings import REPORT
from limiter.request.default_store import default_store
from limiter.request.digest import sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LIMIT = "1/minute"
_MAILER = "import sys; sys.path.insert(0, {!r}); from limiter.report.mail_process import main; main()"


def send(environ: "Mapping[bytes, bytes]", line: bytes, kind: str) -> str:
    """Mail this log line, at most once a minute for each kind.  Return an error message, or "".

    It leaves no child of this process behind.
    """
    try:
        root, _ = default_store(environ)
        name = "mail-" + sha256(kind.encode("utf-8", "surrogatepass"))[:32]
        # Read before the hit.  What is counted after the hit belongs to the next mail.
        suppressed = read(root, name)
        if not Limiter(root, _LIMIT, newcomers="").hit(name):
            add(root, name)
            return ""
        suppressed = take(root, name, suppressed)
        try:
            _start_mailer(environ, line, [root, name, str(suppressed)])
        except OSError:
            add(root, name, suppressed + 1)
            raise
        return ""
    except OSError as error:
        return f"No mail: {type(error).__name__}: {error}"


def _start_mailer(environ: "Mapping[bytes, bytes]", line: bytes, arguments: "list[str]") -> None:
    python = _python()
    package = __file__.rsplit("/", 3)[0]
    command = [python, "-ISB", "-c", _MAILER.format(package), *arguments]
    variables = {name: it for name, it in environ.items() if name.decode("latin-1") in REPORT}
    reading, writing = posix.pipe()
    actions: list[tuple[object, ...]] = [
        (posix.POSIX_SPAWN_DUP2, reading, 0),
        (posix.POSIX_SPAWN_OPEN, 1, "/dev/null", posix.O_WRONLY, 0),
    ]
    if not _is_file(2):
        # Apache may wait until standard error is closed.
        actions.append((posix.POSIX_SPAWN_OPEN, 2, "/dev/null", posix.O_WRONLY, 0))
        if variables.get(b"LIMITER_LOG", b"stderr") == b"stderr":
            variables[b"LIMITER_LOG"] = b"syslog"
    try:
        posix.write(writing, line)  # the line fits in the pipe before anybody reads
        child = posix.posix_spawn(
            python, command, variables, file_actions=actions, setsigmask=[], setsigdef=[SIGTERM]
        )
    finally:
        posix.close(reading)
        posix.close(writing)
    try:
        _, status = posix.waitpid(child, 0)
    except ChildProcessError:
        return  # a server that ignores SIGCHLD cannot learn how its children end
    if status:
        raise OSError(f"{python} ended with status {status}")


def _is_file(number: int) -> bool:
    try:
        return S_ISREG(posix.fstat(number).st_mode)
    except OSError:
        return False


def _python() -> str:
    """Return an interpreter's path: this one's, or one of the same version if Python is embedded."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    own = sys.executable or ""
    places = [own] if own.rpartition("/")[2].startswith("python") else []
    for path in [*places, f"{sys.base_exec_prefix}/bin/{name}", f"/usr/bin/{name}", "/usr/bin/python3"]:
        if posix.access(path, posix.X_OK):
            return path
    raise FileNotFoundError(f"There is no {name} to send mails with")
