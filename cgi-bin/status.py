#!/usr/bin/python3 -IS
# Shows the state of the limiter to administrators: a page, JSON or metrics.
import sys

here = __file__.rpartition("/")[0] + "/"
sys.path[:0] = [here + "..", here]  # the package: beside cgi-bin, or inside it
from limiter.apache.status import run

run()
