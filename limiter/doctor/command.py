"""The doctor: it tests on the real store whether the file system does what the limiter relies on.

It works in ``ROOT/.new-doctor-UNIQUE``, a separate store that nothing else reads.  It does not touch the
applications of the store.  The trials do what hits do, with the same code.  Several processes do them at
once (``limiter.doctor.checks``) and, with ``meet``, two nodes (``limiter.doctor.pair_checks``).
"""

import contextlib
import os
import sys
import time

from limiter.core.furnish import must_exist
from limiter.core.privileges import become_owner
from limiter.core.store import Store, StoreError
from limiter.core.sweep import remove
from limiter.doctor.checks import TRIALS
from limiter.doctor.filesystem import FAIL, PASS, WARN, judge_gluster, judge_mount, mounted
from limiter.doctor.meeting import AloneError, Meeting
from limiter.doctor.pair_checks import JOINT_TRIALS

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
        must_exist(Store(root))
        root = os.path.realpath(root)
        mount = mounted(root)
        report.add("the mount", lambda: judge_mount(root, mount))
        report.add("the volume", lambda: judge_gluster(mount))
        report.add("the directory", lambda: _owner(root))
        become_owner(root)
        with _workplace(root) as place:
            for what, trial in TRIALS:
                report.add(what, lambda trial=trial: trial(place))  # type: ignore[misc]
        if meet:
            with _meeting(root, report) as meeting:
                for what, joint in JOINT_TRIALS:
                    report.add(what, lambda joint=joint: joint(meeting))  # type: ignore[misc]
    except (OSError, ValueError, AloneError) as error:
        report.clear()
        print(f"limiter: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        report.clear()
        print("limiter: interrupted", file=sys.stderr)
        return 2
    return report.status


class _Report:
    """Prints findings and, on a terminal, the current trial.  ``status`` is 1 after a FAIL."""

    def __init__(self) -> None:
        self.status = 0
        self._shows = sys.stderr.isatty()

    def add(self, what: str, trial: "Callable[[], Iterator[Finding]]") -> None:
        """Print the findings of a trial.  An error of the file system is a FAIL."""
        self.show(f"trying {what} ...")
        try:
            findings = list(trial())
        except OSError as error:
            advice = "The file system refused what every hit needs."
            findings = [(FAIL, what, str(error), advice)]
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


def _owner(root: str) -> "Iterator[Finding]":
    what = "directory"
    status = os.stat(root)
    mode = f"owner {status.st_uid}, mode {status.st_mode & 0o7777:04o}"
    if status.st_mode & 0o022:
        yield WARN, what, mode, f"Others can forge or remove hits: chmod go-w {root}"
    else:
        yield PASS, what, mode, ""


@contextlib.contextmanager
def _workplace(root: str) -> "Iterator[str]":
    """A directory that the limiter ignores.  It is removed in the end."""
    path = f"{root}/.new-doctor-{os.urandom(8).hex()}"
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise StoreError.of(error, path) from error
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
