"""Access Limiter: limit the hits per window of each application.  It needs nothing but files."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.core.decision import Decision, Quota
    from limiter.core.limiter import Limiter
    from limiter.core.store import StoreError

__version__ = "0.1.0"
__all__ = ["Decision", "Limiter", "Quota", "StoreError"]


def preload(bundle: str) -> None:
    """Load the modules of a CGI script from their bundle (``limiter.tools.bundle``).

    Only for a process that handles one request.  If the bundle is missing or belongs to another
    version, does nothing: the import system then loads the modules.
    """
    import gc
    import marshal
    import posix
    import sys

    gc.disable()  # the process ends soon and frees everything
    trusted = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER + b"\1\0\0\0"
    try:
        file = posix.open(f"{__path__[0]}/__pycache__/{bundle}.{sys.implementation.cache_tag}.bundle", 0)
        data = posix.read(file, 1_000_000)
        posix.close(file)
    except OSError:
        return
    if data[:8] != trusted:
        return
    for name, code in marshal.loads(data[16:]):
        module = sys.modules[name] = type(sys)(name)
        exec(code, module.__dict__)


def __getattr__(name: str) -> object:
    """Import on first use: a CGI request needs none of these names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from limiter.core import decision, limiter, store

    for module in (decision, limiter, store):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(name)
