"""Networks in the register: the names of their entries, and which of them may apply to an address.  Pure.

An entry's name is the network with ``@`` for the slash and ``_`` for each colon: ``10.0.0.0@8``,
``2001_db8__@32``.  No app_id has an ``@``.  The text of ``.default`` lists the prefixes of all networks at
its end: ``10/second @24,8``.  So a register without networks is read as if there were none to look for.
"""

from limiter.request.addresses import network
from limiter.request.identity import cut, packed, written

SLASH = "@"
_COLON = "_"


def entry_name(text: str) -> "str | None":
    """The name of the entry for a network such as ``10.0.0.0/8``; None for any other text.

    Raises ValueError for a network with a mistake.
    """
    host, slash, _ = text.partition("/")
    if not slash or packed(host) is None:
        return None
    try:
        found = network(text)
    except ValueError as error:
        raise ValueError(f"network {text!r:.200}: expected {error}") from None
    return _name(written(found))


def _name(text: str) -> str:
    return text.replace("/", SLASH).replace(":", _COLON)


def is_network(name: str) -> bool:
    """Whether this is the name of an entry for a network."""
    try:
        return SLASH in name and entry_name(shown(name)) == name
    except ValueError:
        return False


def shown(name: str) -> str:
    """The network whose entry has this name.  Any other name stays as it is."""
    return name.replace(SLASH, "/").replace(_COLON, ":") if SLASH in name else name


def prefixes(names: "list[str]") -> "list[int]":
    """The prefixes of the networks among these names, the longest first."""
    found = {int(name.partition(SLASH)[2]) for name in names if is_network(name)}
    return sorted(found, reverse=True)


def joined(limits: str, found: "list[int]") -> str:
    """The text of ``.default``, with these prefixes."""
    return f"{limits} {SLASH}{','.join(map(str, found))}".lstrip() if found else limits


def limits_of(text: str) -> str:
    """The limits in the text of ``.default``; "" if there are none for other app_ids."""
    return text.partition(SLASH)[0].rstrip()


def may_apply(address: bytes, text: str) -> "list[str]":
    """The names of the entries that apply to an address, the first of those that exist.

    ``text`` is that of ``.default``.  Raises ValueError if it was not written by ``apps set``.
    """
    listed = text.partition(SLASH)[2].split(",")
    for prefix in listed:
        if not (prefix.isascii() and prefix.isdecimal() and len(prefix) < 4):
            raise ValueError(f"{SLASH}{prefix!r:.200}: expected the prefix of a network (use apps set)")
    most = 8 * len(address)
    return [_name(written(cut(address, it))) for it in map(int, listed) if it <= most]
