#!/usr/bin/python3 -IS
# Checks one hit, then becomes the script.  This file is compiled at every request: keep it short.
import sys

here = __file__.rpartition("/")[0] + "/"
sys.path[:0] = [here + "..", here]  # the package: beside cgi-bin, or inside it
import limiter

limiter.preload("guard")
from limiter.apache.guard import run

run()
