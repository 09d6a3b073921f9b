"""Watches the map's program: if it stops or hangs, its request gets an answer, and another one goes on.

Apache waits for the program's answer for ever, and no other request can ask meanwhile.  So a copy of the
program looks at it a few times a second, and costs the program no system call.  It does nothing else until

- the program is stopped (SIGSTOP): the copy continues it;
- the program neither answers nor reads for longer than it may: the copy kills it, answers in its place, and
  becomes the program;
- the program is killed while it works on an answer: likewise.

If it is not certain whether an answer has been written, the copy ends, too: a second answer would be taken
for that to the next request.
"""

import os
from _signal import SIG_DFL, SIGCONT, SIGINT, SIGKILL, SIGTERM, signal
from mmap import mmap
from select import POLLIN, POLLOUT, poll
from time import monotonic

from limiter.cgi import log

# What the program is doing.
_WAITS, _WORKS, _WRITES = range(3)
# The places in the memory that both share.
_PHASE, _COUNT, _PROCESS = range(3)
_LOOKS = 4  # in the time after which the program has failed
_DYING_MOST = 1.0


class Watched:
    """The program, as its copy sees it.  Make it before there are other threads.

    ``seconds``: how long an answer may take.  ``answer``: the answer to a request that took longer.
    """

    def __init__(self, seconds: float, answer: bytes) -> None:
        self._seconds = seconds
        self._answer = answer
        self._shared = memoryview(mmap(-1, 4096)).cast("I")
        while True:
            is_open, self._keeps_open = os.pipe()
            self._shared[_PROCESS] = os.getpid()
            self._shared[_PHASE] = _WAITS
            if os.fork():
                os.close(is_open)
                return
            # The copy.
            os.close(self._keeps_open)
            _Copy(self, is_open).watch()
            os.close(is_open)
            # It is the program now, and needs a copy of its own.

    def works(self) -> None:
        """The program has read a request."""
        self._shared[_PHASE] = _WORKS

    def writes(self) -> None:
        """The program begins to write the answer."""
        self._shared[_PHASE] = _WRITES

    def waits(self) -> None:
        """The program has written the answer."""
        self._shared[_COUNT] = (self._shared[_COUNT] + 1) & 0xFFFFFFFF
        self._shared[_PHASE] = _WAITS

    def is_another(self) -> None:
        """This process has become the program: its predecessor has left it (``graceful_restart``)."""
        self._shared[_PROCESS] = os.getpid()


class _Copy:
    """The process that watches."""

    def __init__(self, watched: "Watched", is_open: int) -> None:
        self._shared = watched._shared
        self._seconds = watched._seconds
        self._answer = watched._answer
        self._is_open = is_open

    def watch(self) -> None:
        """Watch the program.  Return when this process must go on in its place."""
        handlers = [(number, signal(number, SIG_DFL)) for number in (SIGTERM, SIGINT)]
        self._wait_for_a_failure()
        for number, handler in handlers:
            signal(number, handler)

    def _wait_for_a_failure(self) -> None:
        ended = poll()
        ended.register(self._is_open, POLLIN)
        before, since = -1, monotonic()
        while not ended.poll(1000 * self._seconds / _LOOKS):
            count, now = self._shared[_COUNT], monotonic()
            if count != before or not self._is_busy():
                before, since = count, now
            elif now - since >= self._seconds:
                since = now
                if self._resolve():
                    return
        # The program has ended, and its copies, too.
        if self._shared[_PHASE] != _WORKS:
            os._exit(0)
        self._answer_for_it("The map's program was killed: another one goes on")

    def _is_busy(self) -> bool:
        if self._shared[_PHASE] != _WAITS or _is_ready(0, POLLIN):
            return True
        # It may be stopped when it has just read a request.
        return _state(self._shared[_PROCESS]) == "T"

    def _resolve(self) -> bool:
        """Do what is possible about a program that hangs.  True: this process must go on in its place."""
        process = self._shared[_PROCESS]
        try:
            if _state(process) == "T":
                os.kill(process, SIGCONT)
                _say("The map's program was stopped by a signal: it goes on")
                return False
            if self._shared[_PHASE] != _WORKS:
                return False
            os.kill(process, SIGKILL)
        except ProcessLookupError:
            return False  # it has just ended, as the pipe will say
        ended = poll()
        ended.register(self._is_open, POLLIN)
        # What waits for a dead device dies later, but does nothing before.
        ended.poll(1000 * _DYING_MOST)
        if self._shared[_PHASE] == _WRITES:
            os._exit(0)
        if self._shared[_PHASE] == _WORKS:
            self._answer_for_it(f"The map's program hung for {self._seconds:g} s: another one goes on")
        return True

    def _answer_for_it(self, reason: str) -> None:
        os.write(1, self._answer)
        _say(reason)


def _state(process: int) -> str:
    """The letter for the state of a process, as in proc(5); "" if there is none."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


def _is_ready(number: int, event: int) -> bool:
    """Whether this can be read or written at once."""
    ready = poll()
    ready.register(number, event)
    return any(it & event for _, it in ready.poll(0))


def _say(text: str) -> None:
    """Log a line, unless that would block: the log may be what hangs."""
    if _is_ready(2, POLLOUT):
        log(text)
