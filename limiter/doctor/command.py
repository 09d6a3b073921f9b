"""The doctor: it tests on the real store whether the file system does what the limiter relies on.

It looks at what is in the store, and changes nothing there (``limiter.doctor.contents``).  It works in
``ROOT/.new-doctor-UNIQUE``, a separate store that nothing else reads.  The checks do what hits do, with
the same code.  Several processes do them at once (``limiter.doctor.checks``) and, with ``meet``, two nodes
(``limiter.doctor.meeting``).
"""

import contextlib
import os
import sys
import time

from limiter.core.furnish import must_exist
from limiter.core.mount import mounted
from limiter.core.privileges import become_owner
from limiter.core.removal import remove
from limiter.doctor.checks import CHECKS
from limiter.doctor.contents import check_contents
from limiter.doctor.filesystem import FAIL, WARN, check_gluster, check_mount, finding
from limiter.doctor.meeting import PAIR_CHECKS, AloneError, Meeting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limiter.doctor.filesystem import Finding

# Seconds.
_PATIENCE = 60.0
_REMOVAL = 5.0
_PAUSE = 0.05


def doctor(root: str, meet: bool = False) -> int:
    """Test the store, print a line for each finding, and return the exit status.

    0: no FAIL; 1: at least one FAIL; 2: the store could not be tested.  With ``meet``, it also waits up
    to a minute for another node that runs the same command.  Progress is shown on a terminal.
    """
    report = _Report()
    try:
        must_exist(root)
        root = os.path.realpath(root)
        mount = mounted(root)
        report.add("the mount", check_mount, root, mount)
        report.add("the volume", check_gluster, mount)
        report.add("the directory", _check_directory, root)
        report.add("what is in it", check_contents, root)
        become_owner(root)
        with _workplace(root) as place:
            for what, check in CHECKS:
                report.add(what, check, place)
        if meet:
            with _meeting(root, report) as meeting:
                for what, pair_check in PAIR_CHECKS:
                    report.add(what, pair_check, meeting)
    except (OSError, ValueError, AloneError, KeyboardInterrupt) as error:
        report.clear()
        print(f"limiter: {str(error) or 'interrupted'}", file=sys.stderr)
        return 2
    return report.status


class _Report:
    """Prints findings and, on a terminal, the current check.  ``status`` is 1 after a FAIL."""

    def __init__(self) -> None:
        self.status = 0
        self._shows = sys.stderr.isatty()

    def add(self, what: str, check: "Callable[..., Iterator[Finding]]", *arguments: object) -> None:
        """Print the findings of a check.  An error of the file system is a FAIL."""
        self.show(f"checking {what} ...")
        try:
            findings = list(check(*arguments))
        except OSError as error:
            findings = [(FAIL, what, str(error), "The file system refused what every hit needs.")]
        self.clear()
        for level, title, found, advice in findings:
            print(f"{level}  {title:<14}  {found}")
            if advice:
                print(f"{'':6}{advice}")
            if level == FAIL:
                self.status = 1
        sys.stdout.flush()

    def show(self, text: str) -> None:
        """Show progress, if standard error is a terminal."""
        if self._shows:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Remove the progress."""
        self.show("")


def _check_directory(root: str) -> "Iterator[Finding]":
    status = os.stat(root)
    found = f"owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}"
    advice = f"Others can forge or remove hits: chmod go-w {root}"
    yield finding(not status.st_mode & 0o022, "directory", found, advice, WARN)


@contextlib.contextmanager
def _workplace(root: str) -> "Iterator[str]":
    """A directory that the limiter ignores.  It is removed in the end."""
    path = f"{root}/.new-doctor-{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    try:
        yield path
    finally:
        # If listings are stale, one attempt may not be enough.
        end = time.monotonic() + _REMOVAL
        while not remove(path) and time.monotonic() < end:
            time.sleep(_PAUSE)


@contextlib.contextmanager
def _meeting(root: str, report: _Report) -> "Iterator[Meeting]":
    meeting = Meeting(root, _PATIENCE)
    try:
        report.show(f"waiting {_PATIENCE:.0f} s for the other node (there: doctor --meet) ...")
        host = meeting.exchange(os.uname().nodename)
        print(f"{'':6}two nodes: {os.uname().nodename} and {host}")
        yield meeting
        meeting.leave()
    finally:
        if meeting.role == "a":
            remove(meeting.path)
