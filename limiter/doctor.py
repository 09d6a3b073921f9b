"""The doctor: whether a file system keeps what the limiter rests on, tried on the very store.

Everything happens in ``ROOT/.new-doctor-UNIQUE``, a store of its own into which nobody else looks; the
applications of the store are not touched.  What is tried is what hits do, with the same code, by several
processes at once (``limiter.trials``) and, with ``meet``, by two nodes (``limiter.jointtrials``).
"""

import contextlib
import os
import sys
import time

from limiter.filesystem import FAIL, PASS, WARN, judge_gluster, judge_mount, mounted
from limiter.furnish import must_exist
from limiter.jointtrials import JOINT_TRIALS
from limiter.meeting import AloneError, Meeting
from limiter.owner import become_owner
from limiter.store import Store, failure
from limiter.sweep import remove
from limiter.trials import TRIALS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from limiter.filesystem import Finding

# Seconds.
_PATIENCE = 60.0
_REMOVAL = 5.0
_PAUSE = 0.05


def doctor(root: str, meet: bool = False) -> int:
    """Try the store and print a line for each thing tried; the status to exit with.

    0: nothing FAILed, 1: something did, 2: it could not be tried.  With ``meet``, also wait a minute for
    another node that does the same.  Progress is shown on a terminal.
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
    """Prints findings, and meanwhile on a terminal what is being tried.  ``status`` is 1 after a FAIL."""

    def __init__(self) -> None:
        self.status = 0
        self._shows = sys.stderr.isatty()

    def add(self, what: str, trial: "Callable[[], Iterator[Finding]]") -> None:
        """Print what a trial finds; an error of the file system is a FAIL."""
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
        """Show what is going on, if anybody looks."""
        if self._shows:
            print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take away what was shown."""
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
    """A directory that the limiter ignores, and that has gone in the end."""
    path = f"{root}/.new-doctor-{os.urandom(8).hex()}"
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise failure(error, path) from error
    try:
        yield path
    finally:
        # Where listings are old, it takes more than one.
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
