"""Why a request got 401: one reason for the log, which never contains a value that the client sent."""

from limiter.core.store import is_app
from limiter.request.key import Key, unquote
from limiter.request.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_UNKNOWN = "is not in the register, which has no .default"


def reason(
    key: Key, get: "Callable[[bytes], bytes | None]", texts: "tuple[bytes, ...]", fault: str = ""
) -> str:
    """Why ``key`` finds no app_id in this request, or that the register has no entry for it.

    ``get`` and ``texts`` are as for ``Key.find``.  ``fault`` says why a form could not be read, if so.
    """
    if key.variable is not None:
        app_id, why = key.read(get)
        return f"{key.text.partition(':')[2]} {_UNKNOWN if app_id else why}"
    found = key.given(texts)
    exact = [value for name, value in found if unquote(name) == key.name]
    if len(found) > 1:
        why = "is given twice, or under another name that some applications take for it"
    elif not exact:
        why = (
            "is given under another name, which only some applications take for it"
            if found
            else "is missing"
        )
        why += f", and the form could not be read: {fault}" if fault else ""
    elif is_app(unquote(exact[0]).decode("latin-1")):
        why = _UNKNOWN
    else:
        why = "is malformed" if exact[0] else "is empty"
    return f"{key.text} {why}"


def reason_of_cgi(environ: "Mapping[bytes, bytes]", form: bytes, fault: str) -> str:
    """The reason for the CGI request in ``environ``, with this form."""
    settings = Settings(environ)
    if settings.rules:
        from limiter.request.rule_settings import settings_for

        settings = settings_for(settings, environ)
    key = Key(settings.key, settings.trusted_proxies, settings.ipv6_prefix)
    return reason(key, environ.get, (environ.get(b"QUERY_STRING", b""), form), fault)
