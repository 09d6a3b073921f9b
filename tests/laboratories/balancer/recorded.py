#!/usr/bin/python3 -IS
"""The CGI script check.py, which also records its clock and its claims (see ../cluster/recorder.py).

``n`` in the query is the number of the request; it names the file.
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
