"""The steps at the end of a process that Python ends.  They run in a fixed order."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The steps, in their order.
ANSWER, HANG_UP = range(2)

_steps: "dict[int, Callable[[], None]]" = {}


def at_end(step: int, function: "Callable[[], None]") -> None:
    """Call the function at this step when the process ends, whatever was registered before it."""
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
    from _stat import S_ISREG
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
                if S_ISREG(posix.fstat(it.fileno()).st_mode):
                    it.flush()
            except Exception:
                pass  # it is closed, or the disk is full: a failure has been reported already
