#!/usr/bin/python3 -IS
# Reports if this server can admit: 200 or 503.  This file is compiled at every request: keep it short.
import sys

here = __file__.rpartition("/")[0] + "/"
sys.path[:0] = [here + "..", here]  # the package: beside cgi-bin, or inside it
import limiter

limiter.preload("health")
from limiter.apache.health import health

health()
