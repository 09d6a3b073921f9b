"""Access Limiter: at most so many hits per window for each application, with nothing but files."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.hit import Decision, Quota
    from limiter.limiter import Limiter
    from limiter.store import StoreError

__version__ = "0.1.0"
__all__ = ["Decision", "Limiter", "Quota", "StoreError"]

# What a CGI request imports, in the order in which these need each other.
_CGI = ("limit", "store", "notation", "hit", "request", "response", "settings", "cgi")


def preload() -> None:
    """Import the modules of a CGI request straight from their compiled files.

    The import system spends as long on finding a module as the module's own code takes, a tenth of the
    whole request for all of them.  As it does, this trusts only files of this interpreter's version that
    say that they need no checking (PEP 552, unchecked hash); at any other it leaves the rest to it.
    """
    import marshal
    import posix
    import sys

    trusted = sys.modules["_frozen_importlib_external"].MAGIC_NUMBER + b"\1\0\0\0"
    for name in _CGI:
        try:
            file = posix.open(f"{__path__[0]}/__pycache__/{name}.{sys.implementation.cache_tag}.pyc", 0)
            data = posix.read(file, 65536)
            posix.close(file)
        except OSError:
            return
        if data[:8] != trusted:
            return
        module = type(sys)(f"limiter.{name}")
        sys.modules[module.__name__] = module
        exec(marshal.loads(data[16:]), module.__dict__)


def __getattr__(name: str) -> object:
    """Import on first use: a CGI request needs none of these names."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from limiter import hit, limiter, store

    for module in (hit, limiter, store):
        if hasattr(module, name):
            return getattr(module, name)
    raise AssertionError(name)
