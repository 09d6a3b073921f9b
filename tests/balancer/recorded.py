#!/usr/bin/python3 -IS
"""The CGI script check.py, which also leaves what its clock said and what it claimed: see tests/cluster/recorder.py.

The request's number, ``n`` in its query, names the file.
"""

import os
import posix
import sys

number = posix.environ[b"QUERY_STRING"].rpartition(b"&n=")[2]
history = posix.open(b"/dev/shm/history/" + number, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
posix.dup2(history, 3)
sys.argv[1:] = [f"{__file__.rpartition('/')[0]}/check.py", "0"]
with open("/dev/shm/recorder.py", "rb") as recorder:
    exec(recorder.read())
