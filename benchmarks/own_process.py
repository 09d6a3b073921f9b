"""A function that runs in a process of its own, so that nothing else there changes what it measures."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import TypeVar

Argument = TypeVar("Argument")
Result = TypeVar("Result")

FORK = multiprocessing.get_context("fork")


@contextmanager
def own_process(
    make: Callable[[], Callable[[Argument], Result]],
) -> Iterator[Callable[[Argument], Result]]:
    """Call ``make`` in a new process, and during the block what it returns, each time in that process.

    A call waits for its result.  Raises RuntimeError if the process cannot say it.
    """
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_serve, args=(make, ours, theirs), daemon=True)
    process.start()
    theirs.close()

    def call(argument: Argument) -> Result:
        ours.send(argument)
        try:
            result, failure = ours.recv()
        except EOFError:
            raise RuntimeError("the process has ended") from None
        if failure:
            raise RuntimeError(failure)
        return result  # type: ignore[no-any-return]

    try:
        yield call
    finally:
        process.kill()
        process.join()
        ours.close()


def leave_signals_to_the_parent() -> None:
    """In a new process: it ends when its parent kills it, not at the first Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _serve(
    make: Callable[[], Callable[[Argument], Result]], ours: Connection, theirs: Connection
) -> None:
    leave_signals_to_the_parent()
    ours.close()  # else it would never see that the parent has ended
    call: Callable[[Argument], Result] | None = None
    while True:
        try:
            argument = theirs.recv()
        except EOFError:
            os._exit(0)
        try:
            call = call or make()
            theirs.send((call(argument), ""))
        except Exception as error:
            theirs.send((None, f"{type(error).__name__}: {error}"))
