"""The one step at the end of every problem: a line in the log, and a mail for what is no client's fault.

=====================  ====================================================================
``LIMITER_LOG``        ``stderr`` (the default), ``syslog``, or a file's absolute path
                       (``limiter.journal``)
``LIMITER_LOG_LEVEL``  ``error`` (the default): what is answered with 5xx; ``warning``: with
                       4xx, too
``LIMITER_LOG_SAMPLE`` n: of the lines on 4xx one in n is written, chosen at random, and tells
                       so.  Default: 1, all of them
``LIMITER_MAIL_TO``    who gets a mail for 5xx: addresses with commas between them.  Default:
                       nobody
``LIMITER_MAIL_FROM``  who it is from.  Default: ``access-limiter`` at this host
``LIMITER_SMTP``       who takes the mail: ``host``, ``host:port``, ``sendmail`` or the
                       absolute path of such a program (``limiter.mailer``).  Default:
                       sendmail if there is one, else ``localhost``
=====================  ====================================================================

A variable that is empty counts as not set.  What is needed only when something has failed is loaded then.
"""

import posix

from limiter.settings import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = (
    "LIMITER_LOG",
    "LIMITER_LOG_LEVEL",
    "LIMITER_LOG_SAMPLE",
    "LIMITER_MAIL_TO",
    "LIMITER_MAIL_FROM",
    "LIMITER_SMTP",
)
"""All variables."""

_VARIABLES = [name.encode() for name in NAMES]
_LEVELS = {"error": 500, "warning": 400}
_SAMPLE_MOST = 1_000_000
_HOST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


class Reporter:
    """Tells of problems, as the variables say; ``environ`` has bytes for both, as ``os.environb`` has.

    It also tells of the request that these variables describe (RFC 3875).  Raises ValueError for a mistake
    in the settings, naming the variable.
    """

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self._environ = environ
        self.log = _place(text_of(environ, "LIMITER_LOG", "stderr"))
        self._least = _level(text_of(environ, "LIMITER_LOG_LEVEL", "error"))
        self._sample = _number(text_of(environ, "LIMITER_LOG_SAMPLE", "1"))
        self.mail_to = _addresses("LIMITER_MAIL_TO", text_of(environ, "LIMITER_MAIL_TO", ""))
        self.mail_from = _address(text_of(environ, "LIMITER_MAIL_FROM", ""))
        self.smtp = _smtp(text_of(environ, "LIMITER_SMTP", ""))

    def report(self, status: str, reason: str, where: str = "", stack: str = "", kind: str = "") -> None:
        """Tell of a request that gets, or ought to get, this status.  Never raises.

        ``where`` is ``file:line``; ``stack`` has a frame a line, the innermost first.  Of mails of one
        ``kind`` (by default: of the same script, type of reason and place) there is one a minute.
        """
        try:
            self._report(int(status[:3]), reason, where, stack, kind)
        except Exception as error:
            _last_resort(f"{reason}; and then {type(error).__name__}")

    def report_error(self, status: str, error: BaseException, remark: str = "") -> None:
        """Tell of a request that an exception has ended, as ``report`` does; ``remark`` ends the reason."""
        try:
            from limiter.trace import reason_of, stack_of

            reason = f"{reason_of(error)} ({remark})" if remark else reason_of(error)
            where, stack = stack_of(error)
            kind = f"{self._script()} {type(error).__name__} {where}"
            self._report(int(status[:3]), reason, where, stack, kind)
        except Exception as second:
            _last_resort(f"{type(error).__name__}; and then {type(second).__name__}")

    def note(self, reason: str) -> None:
        """Write a line that concerns no status and is never mailed, as of a mail that fails.  Never raises."""
        try:
            self._write(None, reason, "", "", None)
        except Exception as error:
            _last_resort(f"{reason}; and then {type(error).__name__}")

    def _report(self, status: int, reason: str, where: str, stack: str, kind: str) -> None:
        if status < self._least:
            return
        sample = None
        if status < 500 and self._sample > 1:
            sample = self._sample
            if int.from_bytes(posix.urandom(8), "big") % sample:
                return
        line = self._write(status, reason, where, stack, sample)
        if status >= 500 and self.mail_to:
            from limiter.mail import send

            failure = send(
                self._environ, line, kind or f"{self._script()} {reason.partition(':')[0]} {where}"
            )
            if failure:
                self.note(failure)

    def _write(
        self, status: "int | None", reason: str, where: str, stack: str, sample: "int | None"
    ) -> bytes:
        from limiter.journal import compose, write

        line = compose(self._environ, status, reason, where, stack, sample)
        failure = write(self.log, line, status is None or status >= 500)
        if failure:
            write("stderr", compose(self._environ, None, failure, "", "", None), True)
        return line

    def _script(self) -> str:
        script = self._environ.get(b"SCRIPT_FILENAME") or self._environ.get(b"SCRIPT_NAME") or b""
        return script.decode("utf-8", "backslashreplace")


def reporter_of(environ: "Mapping[bytes, bytes]") -> Reporter:
    """The reporter by these settings; one by the defaults, which has told so, if there is a mistake in them."""
    try:
        return Reporter(environ)
    except ValueError as error:
        reporter = Reporter({name: it for name, it in environ.items() if name not in _VARIABLES})
        reporter.note(f"ValueError: {error}")
        return reporter


def _last_resort(text: str) -> None:
    try:
        posix.write(2, b"limiter: " + ascii(text)[:1000].encode() + b"\n")
    except Exception:
        pass  # there is nobody left to tell


def _place(text: str) -> str:
    if text not in ("stderr", "syslog") and (text[0] != "/" or text[-1] == "/" or "\0" in text):
        raise ValueError(
            f"LIMITER_LOG={text!r:.200}: expected 'stderr', 'syslog' or a file's absolute path"
        )
    return text


def _level(text: str) -> int:
    if text not in _LEVELS:
        raise ValueError(f"LIMITER_LOG_LEVEL={text!r:.200}: expected 'error' or 'warning'")
    return _LEVELS[text]


def _number(text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    if not 0 < number <= _SAMPLE_MOST:
        raise ValueError(
            f"LIMITER_LOG_SAMPLE={text!r:.200}: expected a whole number from 1 to {_SAMPLE_MOST}"
        )
    return number


def _addresses(name: str, text: str) -> "list[str]":
    addresses = [address.strip() for address in text.split(",")] if text else []
    for address in addresses:
        user, _, host = address.partition("@") if "@" in address else (address, "", "local")
        plain = address.isascii() and address.isprintable() and not set(address) & set(' "(),:;<>[\\]')
        if not plain or not user or user[0] == "-" or not host or host.strip(_HOST):
            raise ValueError(
                f"{name}={text!r:.200}: expected an address as root@example.org, without a name"
                + (" (or several, with commas between them)" if name == "LIMITER_MAIL_TO" else "")
            )
    return addresses


def _address(text: str) -> str:
    addresses = _addresses("LIMITER_MAIL_FROM", text)
    if len(addresses) > 1:
        raise ValueError(f"LIMITER_MAIL_FROM={text!r:.200}: expected one address")
    return addresses[0] if addresses else ""


def _smtp(text: str) -> str:
    if text[:1] == "/" or text in ("", "sendmail"):
        return text
    host, colon, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    if not host or host.strip(_HOST) or (colon and not 0 < number < 65536):
        raise ValueError(
            f"LIMITER_SMTP={text!r:.200}: expected 'host', 'host:port', 'sendmail' or the absolute path of"
            " such a program"
        )
    return text
