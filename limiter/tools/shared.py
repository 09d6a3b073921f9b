"""Where the files lie that are not Python modules: cgi-bin, clients and deploy."""

import errno
import sys
from pathlib import Path


def shared(name: str) -> Path:
    """The path of such a file: in a checkout beside the package, else where pip has put it.

    Raises FileNotFoundError.
    """
    homes = [Path(__file__).resolve().parents[2], Path(sys.prefix, "share/access-limiter")]
    for home in homes:
        if (home / name).exists():
            return home / name
    why = "It is not beside the package: run this in a copy of the whole project, or install it with pip"
    raise FileNotFoundError(errno.ENOENT, why, str(homes[0] / name))
