"""The standard error of a supervised script: passed on, except for its end, which may explain a failure."""

import posix

_HELD_BACK = 8192
_LAST_WORDS = 2048
# Bytes that may wait.  Apache does not read standard error while it writes the request's body.
_WAITING_MOST = 1 << 20
# If poll says that a pipe is writable, so many bytes can be written without waiting: PIPE_BUF.
AT_ONCE = 4096


class StandardError:
    """Holds back the last 8 KiB until the script has ended.  Everything else goes to Apache's log."""

    def __init__(self) -> None:
        self.waiting = b""
        """Bytes that still have to be written to Apache's log."""
        self._held = b""

    def take(self, part: bytes) -> None:
        """Take a part of what the script has written."""
        self._held += part
        cut = len(self._held) - _HELD_BACK
        if cut > 0:
            self._pass_on(_end_of_line(self._held, cut))

    def forward(self) -> None:
        """Write what standard error takes at once, in whole lines: mod_cgi logs each read as one line."""
        part = self.waiting[:AT_ONCE]
        part = part[: part.rfind(b"\n") + 1] or part
        try:
            self.waiting = self.waiting[posix.write(2, part) :]
        except OSError:
            self.waiting = b""  # there is nowhere left to report it

    def last_words(self) -> str:
        """Return the end of what is held back.  The rest is passed on, and nothing is held back any more.

        A dump from Python has the innermost call first, so it is returned from its beginning.
        """
        cut = self._held.rfind(b"Fatal Python error: ")
        if cut < 0:
            cut = len(self._held) - _LAST_WORDS
            cut = _end_of_line(self._held, cut) if cut > 0 else 0
        self._pass_on(cut)
        words, self._held = self._held, b""
        return words.decode("utf-8", "backslashreplace")

    def forward_all(self) -> None:
        """Write everything that is left."""
        self._pass_on(len(self._held))
        while self.waiting:
            self.forward()

    def _pass_on(self, cut: int) -> None:
        part, self._held = self._held[:cut], self._held[cut:]
        # Losing some lines is better than blocking the script for ever.
        self.waiting = (self.waiting + part)[-_WAITING_MOST:]


def place_of(stack: str) -> str:
    """Return the place in the script, ``file:line``, that its last words name; "" if they name none."""
    import re

    places = re.findall(r'^  File "(.+)", line (\d+) in ', stack, re.M)[:1]  # Python's dump
    places += re.findall(r'^ *File "(.+)", line (\d+)', stack, re.M)[-1:]  # its traceback
    places += re.findall(r"^(?:\S+: )?(/.+?):(\d+):in ", stack, re.M)[:1]  # Ruby
    places += re.findall(r" (?:at|in) (/.+?)(?: line | on line |:)(\d+)", stack)[-1:]  # Perl, PHP
    return ":".join(places[0]) if places else ""


def _end_of_line(text: bytes, cut: int) -> int:
    """Return where the line with the byte before ``cut`` ends; ``cut`` itself if it has no end."""
    return text.find(b"\n", cut - 1) + 1 or cut
