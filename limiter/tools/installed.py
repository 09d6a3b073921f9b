"""The settings of this machine's installation, as Apache's configuration defines them.

So that ``show acme`` answers for the store that Apache uses, unless the environment names another.
"""

import os
import re
import sys

FILES = (
    "/etc/apache2/conf-enabled/access-limiter.conf",
    "/etc/httpd/conf.d/access-limiter.conf",
)
"""Where deploy/apache/install has put them: Debian, RHEL."""

_DEFINE = re.compile(
    r'^\s*Define\s+(LIMITER_[A-Z_0-9]+)\s+(?:"((?:[^"\\]|\\.)*)"|(\S+))\s*$', re.MULTILINE
)
_RULE = re.compile(r"^\s*Use\s+RateLimit\s+(.*)$", re.MULTILINE)
_HEADER = "LIMITER_HEADER"


def read(file: str) -> "dict[str, str]":
    """The settings that this file of Apache defines.  Raises OSError."""
    with open(file, encoding="utf-8", errors="surrogateescape") as text:
        content = text.read()
    found = {
        name: (quoted or bare).replace('\\"', '"') for name, quoted, bare in _DEFINE.findall(content)
    }
    if _HEADER in found:
        found.setdefault("LIMITER_KEY", f"header:{found.pop(_HEADER)}")
    if _RULE.search(content):
        found["LIMITER_USED"] = " ".join(_RULE.findall(content))  # status.survey looks for keys in it
    return found


def apply(file: str) -> None:
    """Let these settings hold that the environment does not have, and say so.

    ``file`` "" means that of the installation, if there is one, unless LIMITER_ROOT is set: then the
    environment names another store, and its settings hold alone.  Raises OSError for a file that is named.
    """
    if not file:
        found = [it for it in FILES if os.access(it, os.R_OK)]
        if "LIMITER_ROOT" in os.environ or not found:
            return
        file = found[0]
    for name, value in read(file).items():
        os.environ.setdefault(name, value)
    print(f"limiter: settings of {file}", file=sys.stderr)
