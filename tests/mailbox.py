"""A real SMTP server for tests, which keeps the mails it gets and can be slow."""

from __future__ import annotations

import asyncio
import email
import email.policy
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from ssl import SSLContext
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.apache_server import free_port
from tests.waiting import wait_until

_DEADLINE = 60


class Mailbox:
    """The mails that have arrived.  Until ``released``, the server takes only the start of a mail."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.was_encrypted: list[bool] = []
        self.refusal = ""
        """The reply in place of "250 OK"."""
        self.released = threading.Event()
        self.released.set()
        self.begun = threading.Event()
        """Set when a mail has begun to arrive."""
        self._came = threading.Condition()

    def of(self, text: str) -> list[EmailMessage]:
        """Return the mails with this text in their body."""
        return [mail for mail in self.mails if text in mail.get_content().replace("\r\n", "\n")]

    def wait(self, is_enough: Callable[[], Any]) -> None:
        """Wait until enough has arrived; raise TimeoutError if it never does."""
        with self._came:
            if not self._came.wait_for(is_enough, _DEADLINE):
                raise TimeoutError(f"Not enough mails: {[str(mail) for mail in self.mails]}")

    def wait_for(self, text: str) -> EmailMessage:
        """Wait for the one mail with this text in its body."""
        self.wait(lambda: self.of(text))
        (mail,) = self.of(text)
        return mail

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail, once it is released."""
        self.begun.set()
        await asyncio.get_running_loop().run_in_executor(None, self.released.wait, _DEADLINE)
        if self.refusal:
            return self.refusal
        content = envelope.original_content or b""
        mail = email.message_from_bytes(content, policy=email.policy.default)
        with self._came:
            self.mails.append(mail)
            self.envelopes.append(envelope)
            self.was_encrypted.append(session.ssl is not None)
            self._came.notify_all()
        return "250 OK"


@contextmanager
def mailbox(tls: SSLContext | None = None) -> Iterator[Mailbox]:
    """Run it on a free loopback port, with STARTTLS if there is a context for it."""
    box = Mailbox()
    box.port = free_port()
    controller = Controller(
        box, hostname="127.0.0.1", port=box.port, tls_context=tls, ready_timeout=_DEADLINE
    )
    controller.start()
    try:
        yield box
    finally:
        box.released.set()
        # A connection that is still open when the loop ends would be a leak.
        wait_until(lambda: not asyncio.all_tasks(controller.loop))
        controller.stop()
