"""Mails: one per kind and minute, by a real SMTP server or sendmail program; and failures are logged."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from limiter import Decision, Limiter
from limiter.report import mail, mail_process
from limiter.report.counter import add
from limiter.report.journal import compose
from limiter.report.reporter import Reporter
from tests.apache_server import free_port
from tests.mailbox import Mailbox, mailbox
from tests.places import REPOSITORY
from tests.report.conftest import DEADLINE, entries
from tests.waiting import wait_until

REQUEST = {b"SCRIPT_NAME": b"/cgi-bin/order.py", b"QUERY_STRING": b"app_id=acme&token=hunter2"}
RECIPIENTS = ["root@example.org", "admin@example.org"]


def settings(place: Path, smtp: str) -> dict[bytes, bytes]:
    variables = {
        "LIMITER_LOG": f"{place}/log",
        "LIMITER_MAIL_TO": ", ".join(RECIPIENTS),
        "LIMITER_SMTP": smtp,
        "TMPDIR": str(place),
    }
    return {**REQUEST, **{name.encode(): value.encode() for name, value in variables.items()}}


@pytest.fixture
def environ(place: Path, box: Mailbox) -> dict[bytes, bytes]:
    """The variables of a request whose mails go to the mailbox."""
    return settings(place, f"127.0.0.1:{box.port}")


def send(environ: dict[bytes, bytes], kind: str = "kind", reason: str = "KeyError: 'x'") -> str:
    return mail.send(environ, compose(environ, 500, reason, "/srv/x.py:7", "/srv/x.py:7 f", None), kind)


def text_of(box: Mailbox, number: int) -> str:
    box.wait(lambda: len(box.mails) > number)
    text: str = box.mails[number].get_content()
    return text.replace("\r\n", "\n")


def make_old(place: Path) -> None:
    for slot in place.glob("limiter-*/mail-*@1-per-60s/*"):
        slot.rename(slot.with_name(f"{int(slot.name[:10]) - 60}{slot.name[10:]}"))


def counters(place: Path) -> list[int]:
    return [int(it.name) for it in place.glob("limiter-*/.counter-mail-*/*")]


def program(place: Path, text: str) -> str:
    path = place / "sendmail"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_mail_has_the_text_of_the_line(place: Path, box: Mailbox, environ: dict[bytes, bytes]) -> None:
    assert send(environ) == ""
    text = text_of(box, 0)
    (it,) = box.mails
    assert it["Subject"] == "500 /cgi-bin/order.py: KeyError: 'x'"
    assert it["To"] == ", ".join(RECIPIENTS)
    assert it["From"] == f"access-limiter@{os.uname().nodename}"
    assert box.envelopes[0].rcpt_tos == RECIPIENTS
    for line in ("app_id: acme", "status: 500", "stack: /srv/x.py:7 f", "query: app_id=acme&token=***"):
        assert f"\n{line}\n" in text
    assert not entries(place)


# How often


def test_the_next_mail_of_a_kind_says_how_many_were_not_sent(
    place: Path, box: Mailbox, environ: dict[bytes, bytes]
) -> None:
    for kind in ("one", "one", "two", "one"):
        assert send(environ, kind, kind) == ""
    box.wait(lambda: len(box.mails) == 2)
    assert sorted(it["Subject"][-3:] for it in box.mails) == ["one", "two"]
    make_old(place)
    send(environ, "one", "one")
    assert "\n2 more of this kind since the last mail were not mailed.\n" in text_of(box, 2)
    make_old(place)
    send(environ, "one", "one")
    assert "more of this kind" not in text_of(box, 3)


def test_a_failure_during_the_decision_belongs_to_the_next_mail(
    place: Path, box: Mailbox, environ: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meanwhile(Limiter):
        def hit(self, app_id: str, cost: int = 1) -> Decision:
            decision = super().hit(app_id, cost)
            for _ in range(5):
                add(str(next(place.glob("limiter-*"))), app_id)
            return decision

    with monkeypatch.context() as patch:
        patch.setattr(mail, "Limiter", Meanwhile)
        send(environ)
    assert "more of this kind" not in text_of(box, 0)
    make_old(place)
    send(environ)
    assert "\n5 more of this kind" in text_of(box, 1)


# How a mail is sent


def test_no_header_can_be_injected(box: Mailbox, environ: dict[bytes, bytes]) -> None:
    environ[b"SCRIPT_NAME"] = b"/x\r\nBcc: a@example.org"
    send(environ, reason="K\u00e4se\r\nBcc: b@example.org\r\n\r\nbody \ud800 \u2028 \0" + 1000 * "x")
    text_of(box, 0)
    (it,) = box.mails
    assert "Bcc" not in it
    assert len(it.keys()) == 7
    assert it["Subject"].startswith("500 /x Bcc: a@example.org: K\u00e4se Bcc: b@example.org body")
    assert len(it["Subject"]) == 120
    assert box.envelopes[0].rcpt_tos == RECIPIENTS


@pytest.mark.parametrize("offered", [True, False])
def test_a_mail_is_encrypted_if_the_server_offers_that(place: Path, offered: bool) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    certificate = (
        f"-x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout {place}/key -out {place}/crt"
    )
    subprocess.run(["openssl", "req", *certificate.split()], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{place}/crt", f"{place}/key")
    with mailbox(context if offered else None) as box:
        assert send(settings(place, f"127.0.0.1:{box.port}")) == ""
        text_of(box, 0)
        assert box.was_encrypted == [offered]


@pytest.mark.parametrize("smtp", ["", "sendmail", "PATH"])
def test_a_sendmail_program_takes_the_mail(
    place: Path, monkeypatch: pytest.MonkeyPatch, smtp: str
) -> None:
    """It is the first one of the machine, or the one whose path is set."""
    path = program(place, f'echo "$*" >{place}/arguments\ncat >{place}/mail')
    monkeypatch.setattr(mail_process, "SENDMAILS", (f"{place}/missing", path))
    options = Reporter(settings(place, "")).options
    it = mail_process.message(options, {"status": 500, "reason": "x"}, 0)
    mail_process.send(it, smtp.replace("PATH", path))
    assert (place / "arguments").read_text() == "-oi -t\n"
    assert b"To: root@example.org, admin@example.org\n" in (place / "mail").read_bytes()


def test_a_real_sendmail_program_delivers_it(place: Path, box: Mailbox) -> None:
    """The program is msmtp, which sends to a server on another port."""
    if not shutil.which("msmtp"):
        pytest.skip("msmtp is not installed")
    options = f"--host=127.0.0.1 --port={box.port} --from=limiter@example.org"
    environ = settings(place, program(place, f'exec msmtp {options} "$@"'))
    environ[b"LIMITER_MAIL_FROM"] = b"limiter@example.org"
    assert send(environ) == ""
    assert "\nreason: KeyError: 'x'\n" in text_of(box, 0)
    assert box.envelopes[0].rcpt_tos == RECIPIENTS


def test_the_caller_has_no_child_and_its_output_is_closed_at_once(
    box: Mailbox, environ: dict[bytes, bytes]
) -> None:
    """A script's standard output and error are closed when it ends, however long the mail takes."""
    box.released.clear()
    code = (
        "from tests.report.test_mail import *\n"
        f"assert send({environ!r}) == ''\n"
        "try:\n    os.waitpid(-1, 0)\nexcept ChildProcessError:\n    print('no child')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    assert (ended.stdout, ended.stderr) == ("no child\n", "")
    assert box.begun.wait(DEADLINE)
    assert not box.mails


# Failures


@pytest.mark.parametrize(
    ("refusal", "text", "reasons"),
    [
        ("554 5.7.1 Not here", None, ["No mail: SMTPDataError: ", "Not here"]),
        ("", None, ["No mail: ConnectionRefusedError: "]),
        ("", "echo no >&2\nexit 75", ["ended with 75: no"]),
        ("", "", ["LIMITER_SMTP: there is no program"]),
    ],
    ids=["refusal", "no server", "program fails", "no program"],
)
def test_a_mail_that_fails_is_logged_and_counts_as_not_sent(
    place: Path, box: Mailbox, refusal: str, text: str | None, reasons: list[str]
) -> None:
    box.refusal = refusal
    smtp = f"127.0.0.1:{box.port if refusal else free_port()}"
    if text is not None:
        smtp = program(place, text) if text else f"{place}/missing"
    assert send(settings(place, smtp)) == ""
    wait_until(lambda: counters(place) == [1])
    (line,) = entries(place)
    assert line["status"] is None
    for reason in reasons:
        assert reason in line["reason"]
    make_old(place)
    box.refusal = ""
    send(settings(place, f"127.0.0.1:{box.port}"))
    assert "\n1 more of this kind" in text_of(box, 0)


def test_an_unresponsive_server_is_given_up(
    box: Mailbox, environ: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    box.released.clear()
    monkeypatch.setattr(mail_process, "TIMEOUT", 0.3)
    options = Reporter(environ).options
    it = mail_process.message(options, {"status": 500, "reason": "x"}, 0)
    with pytest.raises(OSError, match="timed out"):
        mail_process.send(it, options.smtp)
    assert not box.released.is_set(), "the server is still unresponsive"


def test_an_interpreter_that_does_not_start_loses_no_count(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "_MAILER", "raise SystemExit(7)")
    assert "ended with status" in send(settings(place, ""))
    assert counters(place) == [1]
