"""The process that sends one mail about a log line, by SMTP or with a sendmail program.

``limiter.report.mail`` starts it, with the log line on standard input.  If it fails, it writes another
log line.  The mail then counts as not sent, and the next mail says so.

SMTP is encrypted if the server offers STARTTLS, without a look at its certificate: otherwise the mail is
sent unencrypted anyway.  If the server offers STARTTLS and it then fails, no mail is sent.
"""

import posix
import sys

from limiter.report.counter import add
from limiter.report.reporter import Reporter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from email.message import EmailMessage

    from limiter.request.settings import Settings

TIMEOUT = 30.0
"""Seconds to wait for each answer of the server, or for the whole run of the sendmail program."""

SENDMAILS = ("/usr/sbin/sendmail", "/usr/lib/sendmail")
"""Where to look for a sendmail program."""

_SUBJECT_MOST = 120
_LINE_MOST = 65536
_FILES_MOST = 65536


def main() -> None:
    """Fork a process that sends the mail, and end.

    The arguments are the root and the name of the counter, and how many mails were not sent.
    """
    if posix.fork():
        posix._exit(0)
    posix.setsid()
    posix.closerange(3, _FILES_MOST)
    root, name, suppressed = sys.argv[1:]
    reporter = Reporter(posix.environ)
    try:
        import json
        from resource import RLIMIT_AS, getrlimit, setrlimit

        # The limit of address space was meant for the script only.
        setrlimit(RLIMIT_AS, (getrlimit(RLIMIT_AS)[1],) * 2)

        entry = json.loads(posix.read(0, _LINE_MOST))
        send(message(reporter.options, entry, int(suppressed)), reporter.options.smtp)
    except Exception as error:
        reporter.note(f"No mail: {type(error).__name__}: {error}")
        try:
            add(root, name, int(suppressed) + 1)
        except OSError as second:
            reporter.note(f"No mail: {type(second).__name__}: {second}")


def message(options: "Settings", entry: "dict[str, object]", suppressed: int) -> "EmailMessage":
    """Return the mail about a log entry.  ``suppressed`` more of its kind were not mailed."""
    from email.message import EmailMessage
    from email.policy import SMTP

    mail = EmailMessage(SMTP.clone(cte_type="7bit"))
    mail["From"] = options.mail_from or f"access-limiter@{posix.uname().nodename}"
    mail["To"] = ", ".join(options.mail_to)
    subject = f"{entry['status']} {entry.get('path') or entry.get('script', '')}: {entry['reason']}"
    mail["Subject"] = _one_line(subject)[:_SUBJECT_MOST]
    mail["Auto-Submitted"] = "auto-generated"
    lines = [f"{name}: {_indented(value)}" for name, value in entry.items()]
    if suppressed:
        lines += ["", f"{suppressed} more of this kind since the last mail were not mailed."]
    mail.set_content("\n".join(lines) + "\n")
    return mail


def send(mail: "EmailMessage", smtp: str) -> None:
    """Send the mail to the addresses in it.  ``smtp`` is LIMITER_SMTP.  Raises OSError."""
    if smtp in ("", "sendmail"):
        smtp = next(filter(_runs, SENDMAILS), SENDMAILS[0] if smtp else "localhost")
    if smtp[0] == "/":
        _pipe(mail, smtp)
        return
    from smtplib import SMTP

    host, _, port = smtp.partition(":")
    with SMTP(host, int(port or 25), timeout=TIMEOUT) as server:
        server.ehlo_or_helo_if_needed()
        if server.has_extn("starttls"):
            server.starttls()  # without a context it verifies no certificate
        server.send_message(mail)


def _pipe(mail: "EmailMessage", program: str) -> None:
    if not _runs(program):
        raise FileNotFoundError(f"LIMITER_SMTP: there is no program {program!r}")
    import subprocess

    ended = subprocess.run(
        [program, "-oi", "-t"],
        input=mail.as_bytes(policy=mail.policy.clone(linesep="\n")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        check=False,
    )
    if ended.returncode:
        why = ended.stderr.decode("utf-8", "backslashreplace")
        raise OSError(f"{program} ended with {ended.returncode}: {why:.500}")


def _runs(program: str) -> bool:
    return posix.access(program, posix.X_OK)


def _one_line(text: str) -> str:
    return "".join([it if it.isprintable() else "?" for it in " ".join(text.split())])


def _indented(value: object) -> str:
    lines = value if isinstance(value, list) else str(value).split("\n")
    return "\n    ".join([str(line) for line in lines])
