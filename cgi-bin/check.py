#!/usr/bin/python3 -IS
# Answers one hit: 200, 401, 429 or 500.  This file is compiled at every request: keep it short.
import sys

here = __file__.rpartition("/")[0] + "/"
sys.path[:0] = [here + "..", here]  # the package: beside cgi-bin, or inside it
import limiter

limiter.preload("check")
from limiter.cgi import check

check()
