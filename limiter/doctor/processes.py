"""Runs work in several processes at once, and collects the results.  No process outlives its parent."""

import contextlib
import errno
import os
import pickle
import signal
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")


@contextlib.contextmanager
def child(action: "Callable[[], None]") -> "Iterator[None]":
    """Run ``action`` in a child process.  At the end of ``with``, the child is killed if it still runs."""
    # Delay an interrupt until the child's number is known.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            action()
            status = 0
        except OSError:
            pass  # the parent notices that no answer comes
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def together(processes: int, work: "Callable[[int], T]") -> "list[T]":
    """Run ``work(number)`` in so many processes, which start at once, and return their results.

    Results must be picklable.  Raises the first OSError of a process, or OSError if a process died.
    """
    begin, go = os.pipe()
    with contextlib.ExitStack() as stack:
        pipes = []
        for me in range(processes):
            pipe, answer = os.pipe()
            ends = [begin, go, answer]
            stack.enter_context(child(lambda me=me, ends=ends: _answer(work, me, *ends)))  # type: ignore[misc]
            os.close(answer)
            pipes.append(stack.enter_context(os.fdopen(pipe, "rb")))
        os.write(go, bytes(processes))
        answers = [pipe.read() for pipe in pipes]
    os.close(begin)
    os.close(go)
    results: list[T] = []
    for text in answers:
        result = pickle.loads(text) if text else died()
        if isinstance(result, OSError):
            raise result
        results.append(result)
    return results


def died() -> OSError:
    """Return the error to raise when a process did not answer."""
    return OSError(errno.ECHILD, "A process of this check has died")


def _answer(work: "Callable[[int], object]", me: int, begin: int, go: int, answer: int) -> None:
    os.close(go)  # so that this process ends if the parent dies before the start
    if not os.read(begin, 1):
        return
    try:
        result = work(me)
    except OSError as error:
        result = OSError(error.errno, error.strerror, error.filename)
    with os.fdopen(answer, "wb") as file:
        pickle.dump(result, file)
