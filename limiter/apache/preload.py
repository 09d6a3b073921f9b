"""Loads all that a request may need, while this process may read it, and while descriptors are free.

The map's program starts as root, and gives that up before its first request.  The owner of the store may
not be able to read the interpreter's library.
"""

import re
import socket

from limiter.core import burst, fixed, give_back, ownership, repair, retry
from limiter.report import exception_text, journal, mail, reporter
from limiter.request import (
    addresses,
    credentials,
    default_store,
    digest,
    identity,
    networks,
    node_share,
    reasons,
    register,
    rendezvous,
    rule_settings,
    secret_keys,
)

MODULES = (
    *(re, socket, burst, fixed, give_back, ownership, repair, retry),
    *(exception_text, journal, mail, reporter),
    *(addresses, credentials, identity, networks, node_share, reasons, register),
    *(default_store, digest, rendezvous, rule_settings, secret_keys),
)

digest.sha256(b"")  # it loads its module when it is called
for _codec in ("utf-8", "latin-1", "ascii", "unicode_escape"):
    "".encode(_codec)
