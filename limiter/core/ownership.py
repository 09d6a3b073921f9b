"""Say whose a directory is that this user may not use."""

import os
import stat


def whose(path: str) -> str:
    """Whose directory this path is in, and what to do, as the end of an error message; "" if unknown."""
    directory = path
    while directory and not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    try:
        found, home = os.stat(directory), os.stat(os.path.dirname(directory))
    except OSError:
        return ""
    mode = f"mode {stat.S_IMODE(found.st_mode):o}"
    owners = f"{found.st_uid}:{found.st_gid}, {mode}, and this is user {os.geteuid()}:{os.getegid()}"
    advice = "run this as its owner, or let this user write to it"
    if "@" in os.path.basename(directory):
        # A directory of the store, which should be as the store is.
        advice = (
            f"if it should be as the store is: chown {home.st_uid}:{home.st_gid} {directory}"
            f" && chmod {stat.S_IMODE(home.st_mode) & 0o2777:o} {directory}"
        )
    return f" ({directory} belongs to user {owners}; {advice})"
