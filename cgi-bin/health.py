#!/usr/bin/python3 -IS
# Says whether this web server can admit: 200 or 503.  This text is compiled at every request: keep it short.
import sys

here = __file__.rpartition("/")[0] + "/"
sys.path[:0] = [here + "..", here]  # the package: beside cgi-bin, or inside it
import limiter

limiter.preload("health")
from limiter.health import health

health()
