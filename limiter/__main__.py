"""``python3 -m limiter``."""

import sys

from limiter.tools.cli import main

sys.exit(main())
