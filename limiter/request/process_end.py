"""The steps at the end of a process that Python ends.  They run in a fixed order."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER, HANG_UP = range(2)
"""The steps, in their order."""

# Parts of st_mode, as in the module stat.
_TYPE = 0o170000
_REGULAR = 0o100000

_steps: "dict[int, Callable[[], None]]" = {}


def at_end(step: int, function: "Callable[[], None]") -> None:
    """Call the function at this step when the process ends.

    The order of the calls to ``at_end`` does not matter.
    """
    if not _steps:
        import atexit

        atexit.register(_end)
    _steps[step] = function


def _end() -> None:
    for step in sorted(_steps):
        _steps[step]()


def write_out_files() -> None:
    """Flush the buffers of the program's regular files.  A process that ends by force must do this."""
    import gc
    import posix
    from io import BufferedRandom, BufferedWriter, TextIOWrapper

    try:
        objects = gc.get_objects()
    except MemoryError:
        return
    for it in objects:
        # Use type(): some objects pretend to be of another class, and run code to do so.
        if issubclass(type(it), (TextIOWrapper, BufferedWriter, BufferedRandom)):
            try:
                # The reader of a pipe or a socket may make a flush wait for ever.
                if posix.fstat(it.fileno()).st_mode & _TYPE == _REGULAR:
                    it.flush()
            except Exception:
                pass  # it is closed, or the disk is full: a failure has been reported already
