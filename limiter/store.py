"""The store: the one thing that touches files.  Two calls on the hot path, listdir and rename.

Store format
============
(What an implementer in another language needs.)

The store is one existing directory, ROOT, whose entries are the applications::

    ROOT/APP/LIMIT/SLOT             the first 64 slots, or the one file of a fixed or burst limit
    ROOT/APP/LIMIT.1/SLOT           the next 64, and so on: segments
    ROOT/.new-UNIQUE                something being furnished, tried or removed; nobody else looks in
    ROOT/APP/LIMIT/.sweep-UNIQUE    the mark of a sweeper (or .back-UNIQUE, .gone-UNIQUE)
    ROOT/APP/LIMIT/.slot-UNIQUE-SLOT    a slot that it has seized

APP is an app_id (``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``).  LIMIT is ``10-per-1s`` (sliding),
``10-per-1s-fixed`` or ``5-per-1s-burst-20``: hits, window in seconds.  SLOT is an empty file; its
name is its state, ``SECONDS.MICROSECONDS-NUMBER``, in 10 digits, 6 digits and a decimal number.

A sliding limit of N hits has N slots, numbered from 0 through all its segments, each named for the
microsecond at which it was last taken, or 0000000000.000000 if it never was.  To record a hit:

1. List the directory, then read the clock.  A slot whose stamp is at least one window old is free;
   so is one more than a window ahead (the clock was set back).
2. Rename a free slot to the present microsecond, read anew, keeping its number.  A rename has one
   winner; ENOENT says another hit was faster: try the next free slot, or list again.
3. None free: go on with the next segment, which is furnished when the one before is full.  None
   free in the last: denied, and nothing has been written.

A fixed limit's one file is named for the last hit and its ordinal in that calendar window; a burst
limit's for its theoretical arrival time, the number being the rest in 1/N of a microsecond.  The
same rename is then a compare-and-swap: whoever loses lists again.

A hit that needs several slots (several limits, or a cost above 1) writes ``~`` for ``-`` in all but
the last that it claims, and renames them back if it cannot have all.  A name with ``~`` is taken
like any other, but no one may conclude from it that a limit will stay full.

A directory arrives whole or not at all: it is made and filled under ``.new-UNIQUE`` and then renamed
to its name, ROOT/APP with its first limits in it, later ROOT/APP/LIMIT, from which an empty one is
removed first.  Renaming a directory onto one that is not empty fails, so one contender wins, and the
others remove theirs.  (On GlusterFS a rename may seem to succeed that only a copy just returned has done: whoever
then still finds .new-UNIQUE has not won.)  No slot is ever made in a live directory, none is ever removed from one
but as said below, and no shared name is ever given to mkdir.

What has been idle for a day may be swept: a mark .sweep-UNIQUE is made in the directory; each slot is
renamed to .slot-UNIQUE-SLOT; if a listing then shows no SLOT, the mark to .gone-UNIQUE; then the slots are
removed, the mark, and the directory if it is empty.  A hit that finds a .sweep-UNIQUE ends that: it renames
it to .back-UNIQUE, and then each .slot-UNIQUE-SLOT to a SLOT of up to a millisecond later, at random, unless
there is a .gone-UNIQUE: then it does what the sweeper would (``limiter.sweep``).

A machine that dies within a rename on a replicated file system may leave a slot there under both
names.  The newest counts.  Once that is more than a window old, a hit renames it to one microsecond later, and if it
wins that removes the older ones before it claims it; if another was faster there it lists again.  One of 0 it does
not remove, as it could be a new directory's, but renames to up to a millisecond after the newest, at random.

On a network file system a call may fail although the store goes on (``limiter.retry``).  A listing is then made
again.  After such a rename nobody knows whether it was done: its slot counts as used, and another is tried.

No lock is needed, and there is nothing to repair: between any two system calls the store is
in a valid state.
"""

import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

_APP = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"


class StoreError(OSError):
    """The store has failed: ``errno``, ``strerror`` and ``path`` say how and where."""

    @property
    def path(self) -> str:
        """The file or directory concerned; empty if that is not known."""
        return str(self.filename or "")


def is_app(name: str) -> bool:
    """Whether an application can have this name: it is an app_id, and so no path and no dot-name."""
    return 0 < len(name) <= 64 and name[0] not in "._-" and not name.strip(_APP)


class Store:
    """The directories below ``root``.  Directories are named relative to it: ``acme/10-per-1s``.

    Any number of processes and threads may use one root at once.  Every method raises StoreError
    when the file system fails; losing a race is an answer, not an error.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def names(self, directory: str) -> list[str]:
        """The names in a directory, in no order; none if there is no such directory."""
        path = f"{self.root}/{directory}"
        try:
            return posix.listdir(path)
        except OSError as error:
            if is_lost(error):
                return []
            raise failure(error, path) from error

    def rename(self, directory: str, old: str, new: str) -> bool:
        """Rename one file of a directory.  Of all who try the same old name at most one gets True."""
        path = f"{self.root}/{directory}/"
        try:
            posix.rename(path + old, path + new)
        except OSError as error:
            if is_lost(error):
                return False
            raise failure(error, path + old) from error
        return True


def patiently(function: "Callable[..., T]", *arguments: object) -> "T":
    """What the function returns; it is called again after a fault that may pass (``limiter.retry``)."""
    try:
        return function(*arguments)
    except StoreError as error:
        from limiter.retry import retry  # hardly any request needs it

        return retry(error, function, *arguments)


def is_lost(error: OSError) -> bool:
    """Whether the error only says that a name is gone: somebody else was faster."""
    import errno  # for those few; the constants take as long to load as this whole module

    return error.errno in (errno.ENOENT, errno.ESTALE)


def silent(seconds: float) -> StoreError:
    """What to raise for a file system that has said nothing for so long."""
    import errno

    return StoreError(errno.ETIMEDOUT, f"The store was silent for {seconds:g} s (LIMITER_TIMEOUT)")


def unasked(error: RuntimeError) -> StoreError:
    """What to raise if there is no thread to be had that could ask the file system."""
    import errno

    return StoreError(errno.EAGAIN, f"No thread to ask the store: {error}")


def failure(error: OSError, path: str) -> StoreError:
    """What to raise for an error of the file system at that path."""
    return StoreError(error.errno, error.strerror, path)
