"""One request to check.py, unchanged, in a process that also records its clock and its renames.

``python3 -IS recorder.py CHECK OFFSET`` writes to descriptor 3, one line each: ``list`` and the names,
after a listing; ``time`` and each time that was read, in microseconds; ``try`` and both names, before a
rename; ``did``, or ``not`` and the number of the error, after it.  The clock is OFFSET microseconds ahead.
Each line is written at once, so it is kept if the process is killed.  Directories whose names begin with a
dot are no application's.
"""

import posix
import sys
import time

script, offset = sys.argv[1], int(sys.argv[2])
listdir, rename, time_ns = posix.listdir, posix.rename, time.time_ns


def _record(what: str, value: object) -> None:
    posix.write(3, f"{what} {value}\n".encode())


def _is_hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _recording_listdir(path: str) -> "list[str]":
    names = listdir(path)
    if not _is_hidden(path):
        _record("list", " ".join(sorted(names)))
    return names


def _recording_rename(old: str, new: str) -> None:
    if _is_hidden(old.rpartition("/")[0]):
        rename(old, new)
        return
    _record("try", f"{old} {new}")
    try:
        rename(old, new)
    except OSError as error:
        _record("not", error.errno)
        raise
    _record("did", new)


def _recording_time_ns() -> int:
    now = time_ns() + offset * 1000
    _record("time", now // 1000)
    return now


posix.listdir = _recording_listdir  # type: ignore[assignment]
posix.rename = _recording_rename  # type: ignore[assignment]
time.time_ns = _recording_time_ns
with open(script, "rb") as text:
    exec(text.read(), {"__file__": script, "__name__": "__main__"})
