"""``python3 -m limiter``."""

import sys

from limiter.cli import main

sys.exit(main())
