#!/usr/bin/python3 -IS
# Metrics for Prometheus, whatever Accept says.
import sys

here = __file__.rpartition("/")[0] + "/"
sys.path[:0] = [here + "..", here]  # the package: beside cgi-bin, or inside it
from limiter.apache.status import run

run(only_metrics=True)
