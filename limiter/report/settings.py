"""The settings that say how problems are reported, as in ``limiter.request.settings``."""

from limiter.request.settings import parse_number, parse_one_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from limiter.request.settings import Table

_HOST = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"


def _log(text: str) -> str:
    if text not in ("stderr", "syslog") and (text[0] != "/" or text[-1] == "/" or "\0" in text):
        raise ValueError("'stderr', 'syslog' or a file's absolute path")
    return text


def _addresses(text: str) -> "list[str]":
    addresses = [address.strip() for address in text.split(",")] if text else []
    for address in addresses:
        user, _, host = address.partition("@") if "@" in address else (address, "", "local")
        plain = address.isascii() and address.isprintable() and not set(address) & set(' "(),:;<>[\\]')
        if not plain or not user or user[0] == "-" or not host or host.strip(_HOST):
            raise ValueError("addresses as root@example.org, without names, with commas between them")
    return addresses


def _address(text: str) -> str:
    if "," in text:
        raise ValueError("one address")
    return text and _addresses(text)[0]


def _smtp(text: str) -> str:
    if text[:1] == "/" or text in ("", "sendmail"):
        return text
    host, colon, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else 0
    if not host or host.strip(_HOST) or (colon and not 0 < number < 65536):
        raise ValueError("'host', 'host:port', 'sendmail' or the absolute path of such a program")
    return text


_level = parse_one_of("error", "warning")

REPORT: "Table" = {
    "LIMITER_LOG": (_log, "stderr", "stderr, syslog, or the absolute path of a file"),
    "LIMITER_LOG_LEVEL": (_level, "error", "error: log answers with 5xx; warning: log 4xx, too"),
    "LIMITER_LOG_SAMPLE": (parse_number(1_000_000), "1", "n: log one in n answers with 4xx"),
    "LIMITER_MAIL_TO": (_addresses, "", "who gets a mail for 5xx (default: nobody)"),
    "LIMITER_MAIL_FROM": (_address, "", "the sender of the mail (default: access-limiter at this host)"),
    "LIMITER_SMTP": (_smtp, "", "host[:port], sendmail or a program (default: sendmail or localhost)"),
}
"""The settings that say how problems are reported."""
