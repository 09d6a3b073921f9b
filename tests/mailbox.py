"""A real SMTP server of one's own, that keeps what it gets, and can be slow."""

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

from tests.apache import free_port

_DEADLINE = 60


class Mailbox:
    """What has come.  The server takes no more of a mail than its beginning while it is not ``released``."""

    def __init__(self) -> None:
        self.port = 0
        self.mails: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.was_encrypted: list[bool] = []
        self.refusal = ""
        """What is answered in place of "250 OK"."""
        self.released = threading.Event()
        self.released.set()
        self.begun = threading.Event()
        """Whether a mail has begun to come."""
        self.connections: set[SMTP] = set()
        self._came = threading.Condition()

    def of(self, text: str) -> list[EmailMessage]:
        """The mails with this text in their body."""
        return [mail for mail in self.mails if text in mail.get_content().replace("\r\n", "\n")]

    def wait(self, is_enough: Callable[[], Any]) -> None:
        """Wait until what has come is enough; TimeoutError if it never is."""
        with self._came:
            if not self._came.wait_for(is_enough, _DEADLINE):
                raise TimeoutError(f"Not enough mails: {[str(mail) for mail in self.mails]}")

    def wait_for(self, text: str) -> EmailMessage:
        """The one mail with this text in its body, as soon as it is there."""
        self.wait(lambda: self.of(text))
        (mail,) = self.of(text)
        return mail

    def connected(self, server: SMTP, is_there: bool) -> None:
        """Note that a connection has come, or gone."""
        with self._came:
            (self.connections.add if is_there else self.connections.discard)(server)
            self._came.notify_all()

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail, when there is leave to."""
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
    """Run it on a free port of the loopback, with STARTTLS if there is something to do it with."""
    box = Mailbox()
    box.port = free_port()
    controller = _Controller(
        box, hostname="127.0.0.1", port=box.port, tls_context=tls, ready_timeout=_DEADLINE
    )
    controller.start()
    try:
        yield box
    finally:
        box.released.set()
        # A connection that is still open when the loop ends would be a leak.
        box.wait(lambda: not box.connections)
        controller.stop()


class _Controller(Controller):
    """One that tells its mailbox of connections."""

    def factory(self) -> SMTP:
        return _Server(self.handler, **self.SMTP_kwargs)


class _Server(SMTP):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.event_handler.connected(self, True)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.event_handler.connected(self, False)
