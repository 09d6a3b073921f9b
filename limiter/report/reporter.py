"""Reports every problem in one place: a line in the log, and a mail if it is not the client's fault.

The table ``REPORT`` in ``limiter.report.settings`` has the settings.  Modules that are needed only
after a failure are loaded then.
"""

import posix

from limiter.report.settings import REPORT
from limiter.request.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class Reporter:
    """Reports problems as the variables say.  ``environ`` has bytes for names and values.

    The reports also describe the request in these variables (RFC 3875).  Raises ValueError for a mistake
    in the settings, naming the variable.
    """

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self._environ = environ
        self.options = Settings(environ, REPORT)

    def report(self, status: str, reason: str, where: str = "", stack: str = "") -> None:
        """Report a request that gets, or should get, this status.  Never raises.

        ``where`` is ``file:line``.  ``stack`` has one frame per line, the innermost first.
        """
        try:
            self._report(int(status[:3]), reason, where, stack)
        except Exception as error:
            _last_resort(reason, error)

    def report_error(self, status: str, error: BaseException, remark: str = "") -> None:
        """Report a request that an exception ended.  ``remark`` is added to the reason.  Never raises."""
        try:
            from limiter.report.exception_text import reason_of, stack_of

            reason = f"{reason_of(error)} ({remark})" if remark else reason_of(error)
            self.report(status, reason, *stack_of(error))
        except Exception as second:
            _last_resort(type(error).__name__, second)

    def note(self, reason: str) -> None:
        """Log a line without a status, such as a failed mail.  It is never mailed.  Never raises."""
        try:
            self._write(None, reason, "", "", None)
        except Exception as error:
            _last_resort(reason, error)

    def _report(self, status: int, reason: str, where: str, stack: str) -> None:
        if status < (400 if self.options.log_level == "warning" else 500):
            return
        sample = None
        if status < 500 and self.options.log_sample > 1:
            sample = self.options.log_sample
            if int.from_bytes(posix.urandom(8), "big") % sample:
                return
        line = self._write(status, reason, where, stack, sample)
        if status >= 500 and self.options.mail_to:
            from limiter.report.mail import send

            # At most one mail a minute is sent for each script, type of the reason, and place.
            script = self._environ.get(b"SCRIPT_FILENAME") or self._environ.get(b"SCRIPT_NAME")
            failure = send(self._environ, line, f"{script!r} {reason.partition(':')[0]} {where}")
            if failure:
                self.note(failure)

    def _write(
        self, status: "int | None", reason: str, where: str, stack: str, sample: "int | None"
    ) -> bytes:
        from limiter.report.journal import compose, write

        line = compose(self._environ, status, reason, where, stack, sample)
        failure = write(self.options.log, line, status is None or status >= 500)
        if failure:
            write("stderr", compose(self._environ, None, failure, "", "", None), True)
        return line


def reporter_of(environ: "Mapping[bytes, bytes]") -> Reporter:
    """Return a reporter with these settings.  If they contain a mistake, log it and use the defaults."""
    try:
        return Reporter(environ)
    except ValueError as error:
        names = [name.encode() for name in REPORT]
        reporter = Reporter({name: it for name, it in environ.items() if name not in names})
        reporter.note(f"ValueError: {error}")
        return reporter


def _last_resort(text: str, error: Exception) -> None:
    try:
        line = f"{text}; and then {type(error).__name__}"
        posix.write(2, b"limiter: " + ascii(line)[:1000].encode() + b"\n")
    except Exception:
        pass  # there is nowhere left to report it
