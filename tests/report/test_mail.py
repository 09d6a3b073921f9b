"""Mails: one per kind and minute, by a real SMTP server or sendmail program; and failures are logged."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from limiter import Decision, Limiter
from limiter.report import mail, mail_process
from limiter.report.counter import add
from limiter.report.journal import compose
from limiter.report.reporter import Reporter
from tests.apache_server import free_port
from tests.mailbox import Mailbox, mailbox
from tests.places import REPOSITORY

REQUEST = {b"SCRIPT_NAME": b"/cgi-bin/order.py", b"QUERY_STRING": b"app_id=acme&token=hunter2"}
DEADLINE = 60


@pytest.fixture
def box() -> Iterator[Mailbox]:
    with mailbox() as it:
        yield it


def settings(place: Path, smtp: str) -> dict[bytes, bytes]:
    variables = {
        "LIMITER_LOG": f"{place}/log",
        "LIMITER_MAIL_TO": "root@example.org, admin@example.org",
        "LIMITER_SMTP": smtp,
        "TMPDIR": str(place),
    }
    return {**REQUEST, **{name.encode(): value.encode() for name, value in variables.items()}}


def send(environ: dict[bytes, bytes], kind: str = "kind", reason: str = "KeyError: 'x'") -> str:
    return mail.send(environ, compose(environ, 500, reason, "/srv/x.py:7", "/srv/x.py:7 f", None), kind)


def text_of(box: Mailbox, number: int) -> str:
    box.wait(lambda: len(box.mails) > number)
    text: str = box.mails[number].get_content()
    return text.replace("\r\n", "\n")


def grow_old(place: Path) -> None:
    """Make all mails one minute older."""
    for slot in place.glob("limiter-*/mail-*/1-per-60s/*"):
        slot.rename(slot.with_name(f"{int(slot.name[:10]) - 60}{slot.name[10:]}"))


def tallies(place: Path) -> list[int]:
    return [int(it.name) for it in place.glob("limiter-*/.tally/mail-*/*")]


def log(place: Path) -> list[dict[str, Any]]:
    file = place / "log"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait(is_so: Callable[[], Any]) -> None:
    """Poll until another process has got this far; use it where there is nothing else to wait for."""
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_mail_says_what_the_line_says(place: Path, box: Mailbox) -> None:
    environ = settings(place, f"127.0.0.1:{box.port}")
    assert send(environ) == ""
    text = text_of(box, 0)
    (it,) = box.mails
    assert it["Subject"] == "500 /cgi-bin/order.py: KeyError: 'x'"
    assert it["To"] == "root@example.org, admin@example.org"
    assert it["From"] == f"access-limiter@{os.uname().nodename}"
    assert box.envelopes[0].rcpt_tos == ["root@example.org", "admin@example.org"]
    for line in ("app_id: acme", "status: 500", "stack: /srv/x.py:7 f", "query: app_id=acme&token=***"):
        assert f"\n{line}\n" in text
    assert not log(place)


def test_one_of_a_kind_and_the_next_one_tells_how_many_were_not_sent(place: Path, box: Mailbox) -> None:
    environ = settings(place, f"127.0.0.1:{box.port}")
    for kind in ("one", "one", "two", "one"):
        assert send(environ, kind, kind) == ""
    box.wait(lambda: len(box.mails) == 2)
    assert sorted(it["Subject"][-3:] for it in box.mails) == ["one", "two"]
    grow_old(place)
    send(environ, "one", "one")
    assert "\n2 more of this kind since the last mail were not mailed.\n" in text_of(box, 2)
    grow_old(place)
    send(environ, "one", "one")
    assert "more of this kind" not in text_of(box, 3)


def send_many(environ: dict[bytes, bytes], number: int) -> None:
    for _ in range(number):
        assert send(environ) == ""


def test_of_1000_failures_of_many_processes_999_are_told(place: Path, box: Mailbox) -> None:
    environ = settings(place, f"127.0.0.1:{box.port}")
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as processes:
        for done in [processes.submit(send_many, environ, 125) for _ in range(8)]:
            done.result()
    assert "more of this kind" not in text_of(box, 0)
    grow_old(place)
    send(environ)
    assert "\n999 more of this kind" in text_of(box, 1)


def test_what_fails_while_a_mail_is_decided_on_is_for_the_next_one(
    place: Path, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meanwhile(Limiter):
        def hit(self, app_id: str, cost: int = 1) -> Decision:
            decision = super().hit(app_id, cost)
            for _ in range(5):
                add(str(next(place.glob("limiter-*"))), app_id)
            return decision

    environ = settings(place, f"127.0.0.1:{box.port}")
    with monkeypatch.context() as patch:
        patch.setattr(mail, "Limiter", Meanwhile)
        send(environ)
    assert "more of this kind" not in text_of(box, 0)
    grow_old(place)
    send(environ)
    assert "\n5 more of this kind" in text_of(box, 1)


def test_no_header_can_be_injected(place: Path, box: Mailbox) -> None:
    environ = settings(place, f"127.0.0.1:{box.port}")
    environ[b"SCRIPT_NAME"] = b"/x\r\nBcc: a@example.org"
    send(environ, reason="K\u00e4se\r\nBcc: b@example.org\r\n\r\nbody \ud800 \u2028 \0" + 1000 * "x")
    text_of(box, 0)
    (it,) = box.mails
    assert it.keys() == [
        "From",
        "To",
        "Subject",
        "Auto-Submitted",
        "Content-Type",
        "Content-Transfer-Encoding",
        "MIME-Version",
    ]
    assert it["Subject"].startswith("500 /x Bcc: a@example.org: K\u00e4se Bcc: b@example.org body")
    assert len(it["Subject"]) == 120
    assert box.envelopes[0].rcpt_tos == ["root@example.org", "admin@example.org"]


def test_a_mail_that_fails_is_one_line_and_counts_as_not_sent(place: Path, box: Mailbox) -> None:
    environ = settings(place, f"127.0.0.1:{free_port()}")
    assert send(environ) == ""
    wait(lambda: tallies(place) == [1])
    (line,) = log(place)
    assert line["status"] is None
    assert line["reason"].startswith("No mail: ConnectionRefusedError: ")
    grow_old(place)
    environ[b"LIMITER_SMTP"] = f"127.0.0.1:{box.port}".encode()
    send(environ)
    assert "\n1 more of this kind" in text_of(box, 0)


def test_a_server_that_refuses_the_mail_is_one_line(place: Path, box: Mailbox) -> None:
    box.refusal = "554 5.7.1 Not here"
    send(settings(place, f"127.0.0.1:{box.port}"))
    wait(lambda: tallies(place) == [1])
    (line,) = log(place)
    assert line["reason"].startswith("No mail: SMTPDataError: ")
    assert "Not here" in line["reason"]


def test_a_server_that_is_silent_is_given_up(
    place: Path, box: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.released.clear()
    monkeypatch.setattr(mail_process, "TIMEOUT", 0.3)
    environ = settings(place, f"127.0.0.1:{box.port}")
    reporter = Reporter(environ)
    it = mail_process.message(reporter.options, {"status": 500, "reason": "x"}, 0)
    with pytest.raises(OSError, match="timed out"):
        mail_process.send(it, reporter.options.smtp)
    assert not box.released.is_set(), "the server is silent still"


@pytest.mark.parametrize("offered", [True, False])
def test_a_mail_is_encrypted_where_that_is_offered(place: Path, offered: bool) -> None:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    made += ["-keyout", f"{place}/key", "-out", f"{place}/certificate"]
    subprocess.run(made, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{place}/certificate", f"{place}/key")
    with mailbox(context if offered else None) as box:
        assert send(settings(place, f"127.0.0.1:{box.port}")) == ""
        text_of(box, 0)
        assert box.was_encrypted == [offered]


def test_a_sendmail_program_takes_the_mail(place: Path) -> None:
    program = place / "sendmail"
    program.write_text(
        f'#!/bin/sh\necho "$*" >{place}/arguments\ncat >{place}/new\nmv {place}/new {place}/mail\n'
    )
    program.chmod(0o755)
    assert send(settings(place, str(program))) == ""
    wait((place / "mail").exists)
    assert (place / "arguments").read_text() == "-oi -t\n"
    assert b"To: root@example.org, admin@example.org" in (place / "mail").read_bytes()


def test_a_real_sendmail_program_delivers_it(place: Path, box: Mailbox) -> None:
    """The program is msmtp, which sends to a server on another port."""
    if not shutil.which("msmtp"):
        pytest.skip("msmtp is not installed")
    program = place / "sendmail"
    options = f"--host=127.0.0.1 --port={box.port} --from=limiter@example.org"
    program.write_text(f'#!/bin/sh\nexec msmtp {options} "$@"\n')
    program.chmod(0o755)
    environ = settings(place, str(program))
    environ[b"LIMITER_MAIL_FROM"] = b"limiter@example.org"
    assert send(environ) == ""
    assert "\nreason: KeyError: 'x'\n" in text_of(box, 0)
    assert box.envelopes[0].rcpt_tos == ["root@example.org", "admin@example.org"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho no >&2\nexit 75\n", "ended with 75: no"),
        (None, "LIMITER_SMTP: there is no program"),
    ],
)
def test_a_sendmail_program_that_fails_is_one_line(place: Path, text: str | None, reason: str) -> None:
    program = place / "sendmail"
    if text is not None:
        program.write_text(text)
        program.chmod(0o755)
    send(settings(place, str(program)))
    wait(lambda: tallies(place) == [1])
    (line,) = log(place)
    assert reason in line["reason"]


def test_a_default_store_that_fails_means_no_mail_and_says_why(place: Path) -> None:
    (place / f"limiter-{os.geteuid()}").symlink_to("/")
    why = send(settings(place, f"127.0.0.1:{free_port()}"))
    assert why.startswith("No mail: StoreError: ")
    assert "not trusted" in why


def test_an_interpreter_that_does_not_start_means_no_mail_and_loses_no_count(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mail, "_MAILER", "raise SystemExit(7)")
    why = send(settings(place, f"127.0.0.1:{free_port()}"))
    assert "ended with status" in why
    assert tallies(place) == [1]


def test_the_caller_has_no_child_by_it_and_its_output_is_closed_at_once(
    place: Path, box: Mailbox
) -> None:
    """A script's standard output and error are closed when it ends, however long the mail takes."""
    box.released.clear()
    code = (
        "from tests.report.test_mail import *\n"
        f"assert send(settings(Path({str(place)!r}), '127.0.0.1:{box.port}')) == ''\n"
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
