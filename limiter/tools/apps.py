"""The command ``apps``: change the register.  Also whom a command's argument APP means, and the stores."""

import json
import os
import sys

from limiter.cgi import log
from limiter.core.carry import carry
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError, is_app
from limiter.request import register
from limiter.request.addresses import AddressId
from limiter.request.identity import cut, written
from limiter.request.key import Key
from limiter.request.networks import entry_name, shown
from limiter.request.settings import Settings

_UNLISTED = (
    "networks do not apply, because .default was changed by hand (set it with this command: apps set)"
)


def app_id_of(text: str, settings: Settings) -> str:
    """Return the app_id of a client that sends ``text`` as the key's value.

    If the key is a parameter, the app_id is the text itself.  ``-`` reads the text from standard input.
    Raises ValueError if such a client has none.
    """
    key = Key(settings.key, settings.trusted_proxies, settings.ipv6_prefix)
    if text == "-":
        text = sys.stdin.readline().rstrip("\n")
    if key.variable is None or text == register.DEFAULT:
        return text
    variables = {key.variable: os.fsencode(text)}
    app = key.find(variables.get)
    if app is None:
        from limiter.request.reasons import reason

        raise ValueError(f"APP with LIMITER_KEY={settings.key}: {reason(key, variables.get, ())}")
    return app


def store_of(settings: Settings, app: str) -> str:
    """Return the path of the store of an application, and log what is to be said about it."""
    root = settings.store(app)
    while settings.notes:
        log(settings.notes.pop())
    return root


def all_stores() -> "list[str]":
    """Return the paths of all stores."""
    settings = Settings(os.environb)
    return list(settings.root) or [store_of(settings, "")]


def show(is_json: bool = False) -> int:
    """Print the register.  Return 0."""
    apps = _register(Settings(os.environb))
    entries = register.entries(apps)
    if is_json:
        print(json.dumps(dict(entries)))
    else:
        for name, limits in entries:
            print(f"{name}\t{limits}")
    if not register.is_listed(apps):
        log(f"{apps}: {_UNLISTED}")
    return 0


def change(text: str, limits: "str | None") -> int:
    """Set these limits for an app_id or a network, or remove its entry.  Return the exit status."""
    settings = Settings(os.environb)
    apps = _register(settings)
    network = entry_name(text)
    name = network or app_id_of(text, settings)
    if not network and not is_app(name) and name != register.DEFAULT:
        raise ValueError(
            f"app_id {name!r:.200}: expected 1 to 64 letters, digits, '.', '_' and '-',"
            f" beginning with a letter or a digit, a network such as 10.0.0.0/8, or {register.DEFAULT}"
        )
    if limits is not None and limits != register.UNLIMITED:
        parse(limits)
    _carry(settings, apps, name, limits)
    if limits is not None:
        register.put(apps, name, limits)
    elif not register.remove(apps, name):
        print(f"limiter: {shown(name)} is not in the register {apps}", file=sys.stderr)
        return 1
    return 0


def _register(settings: Settings) -> str:
    if not settings.apps:
        raise ValueError("LIMITER_APPS is not set (set it to the register's directory)")
    return str(settings.apps)


def _carry(settings: Settings, apps: str, changed: str, limits: "str | None") -> None:
    """Count the hits of the clients whose limits change in their new limits.

    If the store fails, the log says so, and the change is made all the same: it may be a ban.  Of an IPv6
    client the store does not know the address, so the hits that it has in a network do not count.
    """
    register.look_up(apps, changed)  # raises StoreError if there is no register
    try:
        before: dict[str, str | None] = {
            entry_name(name) or name: text for name, text in register.entries(apps)
        }
        after = {**before, changed: limits}
        clients = [changed]
        if changed == register.DEFAULT or "@" in changed:
            stored = {name.partition("@")[0] for root in all_stores() for name in Store(root).names(".")}
            clients = sorted(filter(is_app, stored))
        for client in clients:
            app = _known(settings, client)
            _carry_one(settings, client, _applying(app, before), _applying(app, after))
    except StoreError as error:
        log(f"{changed}: not all hits count under the new limits, too: {error}")


def _known(settings: Settings, app: str) -> str:
    """Return the app_id, with its address if it is one."""
    key = Key(settings.key, "", settings.ipv6_prefix)
    return (
        (key.find({b"REMOTE_ADDR": app.encode()}.get) or app) if key.variable == b"REMOTE_ADDR" else app
    )


def _applying(app: str, entries: "dict[str, str | None]") -> "str | None":
    """Return the limits of an app_id by these entries of the register."""
    names = [app, register.DEFAULT]
    if isinstance(app, AddressId):
        bits = range(8 * len(app.address), -1, -1)
        names[1:1] = [str(entry_name(written(cut(app.address, it)))) for it in bits]
    return next((entries[name] for name in names if entries.get(name) is not None), None)


def _carry_one(settings: Settings, app: str, old: "str | None", new: "str | None") -> None:
    if old is None or new is None or old == new or register.UNLIMITED in (old, new):
        return
    try:
        old, new = settings.share(old), settings.share(new)
        parse(old)
    except ValueError:
        return  # a bad entry has never counted a hit
    carry(store_of(settings, app), app, old, new)
