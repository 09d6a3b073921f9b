"""The variables that say how problems are reported.

=====================  ====================================================================
``LIMITER_LOG``        ``stderr`` (the default), ``syslog``, or a file's absolute path
                       (``limiter.report.journal``)
``LIMITER_LOG_LEVEL``  ``error`` (the default): log answers with 5xx; ``warning``: also answers
                       with 4xx
``LIMITER_LOG_SAMPLE`` n: log one 4xx answer in n, chosen at random; the line contains n.
                       Default: 1, log all of them
``LIMITER_MAIL_TO``    addresses that get a mail for 5xx, with commas between them.  Default:
                       nobody
``LIMITER_MAIL_FROM``  the sender.  Default: ``access-limiter`` at this host
``LIMITER_SMTP``       how to send mail: ``host``, ``host:port``, ``sendmail`` or the absolute
                       path of such a program (``limiter.report.mail_process``).  Default:
                       sendmail if there is one, else ``localhost``
=====================  ====================================================================

An empty variable counts as not set.
"""

from limiter.request.settings import text_of

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
"""The names of all these variables."""

VARIABLES = [name.encode() for name in NAMES]
"""The same names as bytes."""

_LEVELS = {"error": 500, "warning": 400}
_SAMPLE_MOST = 1_000_000
_HOST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


class Options:
    """The values of the variables.  ``environ`` has names and values as bytes, like ``os.environb``.

    ``log`` is ``stderr``, ``syslog`` or an absolute path.  ``least`` is the lowest status that is
    logged, 400 or 500.  One 4xx line in ``sample`` is written.  ``mail_to`` is a list of addresses.
    ``mail_from`` and ``smtp`` are empty if they are not set.  Raises ValueError for a mistake, naming
    the variable.
    """

    def __init__(self, environ: "Mapping[bytes, bytes]") -> None:
        self.log = _place(text_of(environ, "LIMITER_LOG", "stderr"))
        self.least = _level(text_of(environ, "LIMITER_LOG_LEVEL", "error"))
        self.sample = _number(text_of(environ, "LIMITER_LOG_SAMPLE", "1"))
        self.mail_to = _addresses("LIMITER_MAIL_TO", text_of(environ, "LIMITER_MAIL_TO", ""))
        self.mail_from = _address(text_of(environ, "LIMITER_MAIL_FROM", ""))
        self.smtp = _smtp(text_of(environ, "LIMITER_SMTP", ""))


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
