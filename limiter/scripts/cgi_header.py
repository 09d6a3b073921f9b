"""The beginning of a script's output: its header fields (RFC 3875, 6.3), held back until they are valid.

Apache answers output that is no header with its own 500 (util_script.c, http_filters.c).  It is refused
here, and so is what Apache would pass on: control characters, and a Status below 200 or above 599.
"""

MOST = 65536
"""The most bytes of a header, and so many bytes are held back at least."""

# Apache reads the rest of a longer line as another line (util_script.c, MAX_STRING_LEN).
_LINE_MOST = 8189
# RFC 9110, 5.6.2 and 5.5.
_TOKEN = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONTROLS = bytes([*range(9), *range(10, 32), 127])
_SHOWN = 80


class Header:
    """Reads and checks header fields as they arrive."""

    def __init__(self) -> None:
        self.is_complete = False
        self.size = 0
        """Bytes of header that were read and are valid."""
        self.status = 200
        self.is_redirect = False
        """Whether there is a Location that the client gets: without a Status, that is a 302."""
        self._line = 1

    def read(self, output: "bytes | bytearray") -> None:
        """Read on in the output, which begins with the bytes that were already read.

        Raises ValueError if it is no header, naming the line and the reason.
        """
        while not self.is_complete:
            end = output.find(b"\n", self.size)
            line = bytes(output[self.size : end if end >= 0 else None])
            if len(line) > _LINE_MOST:
                self._refuse(line, "has more than 8189 bytes")
            if end < 0:
                break
            self._check(line[:-1] if line[-1:] == b"\r" else line)
            self.size = end + 1
            self._line += 1
        if not self.is_complete and len(output) >= MOST:
            raise ValueError("there is no blank line in its first 64 KiB")

    def _check(self, line: bytes) -> None:
        if not line:
            self.is_complete = True
            return
        name, colon, value = line.partition(b":")
        if not colon:
            self._refuse(line, "has no colon")
        if not name or name.translate(None, _TOKEN):
            self._refuse(line, "does not begin with a name")
        if value != value.translate(None, _CONTROLS):
            self._refuse(line, "has control characters")
        if name.lower() == b"status":
            value = value.strip()
            code = int(value[:3]) if value[:3].isdigit() and value[3:4] in (b"", b" ") else 0
            if not 200 <= code <= 599:
                self._refuse(line, "expected a status from 200 to 599")
            self.status = code
        elif name.lower() == b"location":
            self.is_redirect = value.strip()[:1] != b"/"  # else Apache redirects internally

    def _refuse(self, line: bytes, reason: str) -> None:
        raise ValueError(f"line {self._line} of its header, {line[:_SHOWN]!r}: {reason}")


class Beginning:
    """Takes the output as it arrives, and holds it back until the header is complete and the body begins.

    If the script itself reports a failure, with a Status of 5xx, its answer is held back longer: until
    it ends, or has ``MOST`` bytes.  Only at its end is it known to be whole.
    """

    def __init__(self) -> None:
        self.has_passed = False
        """Whether any output was returned."""
        self._held = b""
        self._header = Header()

    @property
    def status(self) -> str:
        """The status of the script's answer, once its header is complete: three digits."""
        header = self._header
        return "302" if header.is_redirect and header.status == 200 else str(header.status)

    @property
    def flaw(self) -> str:
        """What is wrong if the script ends now, for the log; empty if nothing is."""
        if not self.has_passed and not self._held:
            return "without any output"
        return "" if self._header.is_complete else "before the end of its header"

    def take(self, part: bytes) -> bytes:
        """Add this part, and return the output that may be passed on now.

        Raises ValueError if it is no header, naming the line and the reason.
        """
        if self.has_passed:
            return part
        self._held += part
        header = self._header
        header.read(self._held)
        has_body = header.is_complete and len(self._held) > header.size
        if len(self._held) < MOST and (not has_body or header.status >= 500):
            return b""
        return self.release()

    def release(self) -> bytes:
        """Return the output that was held back.  From now on ``take`` holds nothing back."""
        self.has_passed = True
        held, self._held = self._held, b""
        return held
