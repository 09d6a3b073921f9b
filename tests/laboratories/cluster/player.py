"""Requests to check.py on one machine, one after the other, at least one, until standard input ends.

``player.py CHECK HISTORY OFFSET RECORDER APP...`` sends a request for each APP in turn.  It adds to the
file HISTORY what each request records (see recorder.py), and before and after that these lines: ``app``
and the app_id; ``begin`` and the time, in microseconds of the machine's own clock; ``log`` and a line of
standard error; ``end`` and the time; ``answer`` and the status.
"""

import itertools
import os
import select
import subprocess
import sys
import time

PYTHON = "/usr/bin/python3"


def _play(check: str, history: str, offset: str, recorder: str, *apps: str) -> None:
    file = os.open(history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(file, 3)
    for app in itertools.cycle(apps):
        _tell("app", app)
        _tell("begin", time.time_ns() // 1000)
        request = subprocess.Popen(
            [PYTHON, "-IS", recorder, check, offset],
            env={**os.environ, "QUERY_STRING": f"app_id={app}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=[3],
        )
        # For the client a request ends with its output.  The process may still hang in a call then.
        assert request.stdout is not None
        assert request.stderr is not None
        output, log = request.stdout.read(), request.stderr.read()
        end = time.time_ns() // 1000
        for line in log.decode().splitlines():
            _tell("log", line)
        _tell("end", end)
        _tell("answer", output.decode()[8:11])
        request.poll()
        if select.select([sys.stdin], [], [], 0)[0]:
            break


def _tell(what: str, value: object) -> None:
    os.write(3, f"{what} {value}\n".encode())


_play(*sys.argv[1:])
