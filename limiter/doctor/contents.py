"""Checks what is in a store: its directories, whose they are, and whether they have all their slots.

It only reads, and looks at a sample of a large store.
"""

import os
import random

from limiter.core.directories import contents, limit_of
from limiter.core.limiter import NEWCOMERS
from limiter.core.newcomers import room
from limiter.core.space import is_running_short
from limiter.core.store import Store, StoreError, is_app, is_lost
from limiter.doctor.filesystem import PASS, WARN, finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from limiter.doctor.filesystem import Finding

_SAMPLE = 10_000
_TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/shm/")
_SHOWN = 3
_LISTINGS = 5  # a listing may lack a slot that is renamed meanwhile

_CLEANERS = "Cleaners of temporary files remove slots there: set LIMITER_ROOT to a directory elsewhere."
_FOREIGN = "Not all who may use the store can use them: chown -R --reference={0} {0}"
_LOST = "A cleaner or a restore has removed them.  Hits make them again, as taken; keep cleaners away."
_OLD = "They are of an older format, and are not used: remove them."
_UNKNOWN = "Their number cannot be read.  Run the doctor as the owner of the store, or as root."
_REFUSED = "New clients get 429: sweep (python3 -m limiter sweep), or raise LIMITER_NEWCOMERS."


def check_contents(root: str) -> "Iterator[Finding]":
    """Yield findings about the directories of a store.  Raises OSError."""
    is_temporary = f"{root}/".startswith(_TEMPORARY)
    yield finding(not is_temporary, "permanence", _kind(is_temporary), _CLEANERS, WARN)
    names = [name for name in os.listdir(root) if "@" in name or is_app(name)]
    found = f"{len(names)} directories"
    if len(names) > _SAMPLE:
        names = random.sample(names, _SAMPLE)
        found += f", of which {_SAMPLE} were looked at"
    yield PASS, "contents", found, ""
    old = [name for name in names if "@" not in name and _is_old(f"{root}/{name}")]
    yield finding(not old, "format", _some(old, "of an older format"), _OLD, WARN)
    ours = [name for name in names if "@" in name]
    home = os.stat(root)
    foreign = [name for name in ours if _is_foreign(home, f"{root}/{name}")]
    advice = _FOREIGN.format(root)
    if home.st_mode & 0o022:
        advice += f" && chmod -R {'o' if home.st_mode & 0o002 else 'g'}+w {root}"
    yield finding(not foreign, "owners", _some(foreign, "of another owner, group or mode"), advice)
    lost = [name for name in ours if name not in foreign and _has_lost(root, name)]
    yield finding(not lost, "slots", _some(lost, "with slots missing"), _LOST, WARN)
    yield _check_newcomers(root)


def _kind(is_temporary: bool) -> str:
    return (
        "the store is in a directory for temporary files" if is_temporary else "no temporary directory"
    )


def _some(names: "list[str]", what: str) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN]) + (" ..." if len(names) > _SHOWN else "")
    return f"{len(names)} directories {what}: {shown}" if names else f"no directory {what}"


def _is_old(path: str) -> bool:
    try:
        return any([limit_of(name) for name in os.listdir(path)])
    except OSError:
        return False


def _is_foreign(home: os.stat_result, path: str) -> bool:
    """Whether some who may write to the store may not write to this directory in it."""
    try:
        there = os.stat(path)
    except OSError as error:
        if is_lost(error):
            return False
        raise
    if home.st_mode & 0o002:
        return not there.st_mode & 0o002
    if home.st_mode & 0o020:
        return not there.st_mode & 0o020 or there.st_gid != home.st_gid
    return there.st_uid != home.st_uid


def _has_lost(root: str, name: str) -> bool:
    """Whether a directory lacks slots, though it is not being swept."""
    found = limit_of(name.partition("@")[2])
    if found is None:
        return False
    limit, segment = found
    seen: set[int] = set()
    for _ in range(_LISTINGS):
        names = Store(root).names(name)
        slots, marks = contents(names, limit, segment)
        seen.update(map(limit.slot, slots))
        if not names or marks or len(seen) == len(limit.numbers(segment)):
            return False
    return True


def _check_newcomers(root: str) -> "Finding":
    limits = os.environ.get("LIMITER_NEWCOMERS") or NEWCOMERS
    what = "new clients"
    if limits == "unlimited":
        return PASS, what, "unlimited", ""
    try:
        more = room(root, limits)
    except StoreError as error:
        return WARN, what, str(error), _UNKNOWN
    found = f"{more} more are taken in now (LIMITER_NEWCOMERS is {limits})"
    if is_running_short(root):
        found += "; less than a tenth of the inodes or bytes is free"
    return finding(more > 0, what, found, _REFUSED, WARN)
