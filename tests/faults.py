"""Inject faults: run an action in a child process, and fail its n-th system call or kill it there."""

from __future__ import annotations

import errno
import os
import posix
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

CALLS = (
    *("chdir", "chmod", "chown", "close", "execve", "link", "listdir", "lstat", "mkdir", "open", "read"),
    *("readlink", "rename", "rmdir", "stat", "statvfs", "unlink", "write"),
)
"""All calls on files that the package makes, by their names in the module posix."""

HARD = [
    *(errno.EACCES, errno.ECONNABORTED, errno.EDQUOT, errno.EIO, errno.ELOOP, errno.EMFILE),
    *(errno.ENAMETOOLONG, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.ENOTDIR, errno.EPERM),
    *(errno.EROFS, errno.ETIMEDOUT),
]
"""Errors that mean that the store has failed, in any call."""

PASSING = [errno.EBADFD, errno.ENOTCONN]
"""Errors that a network file system may return once, although the next call succeeds."""

SOFT = [errno.ENOENT, errno.ESTALE, errno.EEXIST, errno.ENOTEMPTY, errno.EMLINK]
"""Errors that may only mean that another hit was faster."""


@dataclass
class Ended:
    """How a child ended.

    ``struck`` is the name of the call that was struck, or "", and ``target`` is its path or file
    descriptor.  ``killed`` says whether a signal ended the child, and ``code`` is its exit code.
    ``output`` and ``log`` are what it wrote.
    """

    struck: str
    target: str
    killed: bool
    code: int
    output: bytes
    log: bytes


def run(action: Callable[[], object]) -> Ended:
    """Run ``action`` in a child in which nothing fails."""
    return play(action, sys.maxsize, kill)


def play(
    action: Callable[[], object], number: int, strike: Callable[[], None], lasting: str | None = None
) -> Ended:
    """Run ``action`` in a child, and call ``strike`` just before its system call ``number`` (from 0).

    With ``lasting``, strike each later call, too, if it concerns a path below that directory.
    """
    with (
        open(os.memfd_create("played"), "w+b") as output,
        open(os.memfd_create("played"), "w+b") as log,
        open(os.memfd_create("played"), "w+b") as notes,
    ):
        child = os.fork()
        if not child:
            try:
                posix.dup2(output.fileno(), 1)
                posix.dup2(log.fileno(), 2)
                _arm(number, strike, notes.fileno(), lasting)
                action()
            except BaseException as error:
                posix._exit(3 if isinstance(error, Exception) else 4)
            posix._exit(0)
        _, status = os.waitpid(child, 0)
        for file in (output, log, notes):
            file.seek(0)
        struck, _, target = notes.read().decode().partition(" ")
        code = os.waitstatus_to_exitcode(status)
        return Ended(struck, target, os.WIFSIGNALED(status), code, output.read(), log.read())


def _arm(number: int, strike: Callable[[], None], notes: int, lasting: str | None) -> None:
    calls = 0
    write = posix.write
    opened: dict[object, object] = {}

    def armed(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            target = opened.get(arguments[0], arguments[0])
            path = os.fsdecode(target) if isinstance(target, (str, bytes)) else str(target)
            if calls == number + 1:
                write(notes, f"{name} {path}".encode())
                strike()
            if calls > number + 1 and lasting is not None and path.startswith(f"{lasting}/"):
                strike()
            result = call(*arguments)
            if name == "open":
                opened[result] = target
            return result

        return instead

    for name in CALLS:
        setattr(posix, name, armed(name, getattr(posix, name)))


def kill() -> None:
    """Strike with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> Callable[[], None]:
    """Return a strike that raises this errno."""

    def strike() -> None:
        raise OSError(number, os.strerror(number))

    return strike


def use(variables: Mapping[str, str]) -> None:
    """In a child: replace all LIMITER_ variables of the environment by these."""
    for name in [*os.environ]:
        if name.startswith("LIMITER_"):
            del os.environ[name]
    os.environ.update(variables)
