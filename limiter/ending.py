"""The end of a process that Python ends: what is then to be done, in its order, whoever has asked for it first."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ANSWER, HANG_UP = range(2)
"""The steps."""

# Of st_mode, as in the module stat.
_TYPE = 0o170000
_REGULAR = 0o100000

_steps: "dict[int, Callable[[], None]]" = {}


def at_end(step: int, function: "Callable[[], None]") -> None:
    """Call the function at that step."""
    if not _steps:
        import atexit

        atexit.register(_end)
    _steps[step] = function


def _end() -> None:
    for step in sorted(_steps):
        _steps[step]()


def write_out_files() -> None:
    """Write what the program has written to its files and is still in its memory: who ends by force must."""
    import gc
    import posix
    from io import BufferedRandom, BufferedWriter, TextIOWrapper

    try:
        objects = gc.get_objects()
    except MemoryError:
        return
    for it in objects:
        # Some objects pretend to be of another class, and run code for that.
        if issubclass(type(it), (TextIOWrapper, BufferedWriter, BufferedRandom)):
            try:
                # Who reads a pipe or a socket may let it wait for ever.
                if posix.fstat(it.fileno()).st_mode & _TYPE == _REGULAR:
                    it.flush()
            except Exception:
                pass  # it is closed, or there is no room: a failure has been told already
