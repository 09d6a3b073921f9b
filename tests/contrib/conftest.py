"""The libraries of today need Python 3.10: with an older one their tests are not even imported."""

from __future__ import annotations

import sys

collect_ignore_glob = ["test_*"] if sys.version_info < (3, 10) else []
