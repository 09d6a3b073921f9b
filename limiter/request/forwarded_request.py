"""The request that a proxy asks about before it forwards it, as in nginx's ``auth_request``.

nginx is told to send X-Original-URI and X-Original-Method.  Caddy's ``forward_auth`` and Traefik's ForwardAuth send
X-Forwarded-Uri and X-Forwarded-Method.  A client may send the names that its proxy does not use: so if both are
there and differ, nobody knows which is right.
"""

from urllib.parse import unquote_to_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_URI = ("HTTP_X_ORIGINAL_URI", "HTTP_X_FORWARDED_URI")
_METHOD = ("HTTP_X_ORIGINAL_METHOD", "HTTP_X_FORWARDED_METHOD")


def original_request(environ: "Mapping[str, str]") -> "dict[str, str]":
    """The variables of a WSGI environ that the original request has others of: none if no proxy names it.

    Raises ValueError if the headers contradict each other, or are no path.
    """
    found: dict[str, str] = {}
    uri = _one_of(environ, _URI)
    if uri:
        if not uri.startswith("/"):
            raise ValueError(f"the original URI {uri!r:.200}: expected a path")
        path, _, query = uri.partition("?")
        # PATH_INFO is decoded in WSGI.
        decoded = unquote_to_bytes(path.encode("latin-1")).decode("latin-1")
        found.update(SCRIPT_NAME="", PATH_INFO=decoded, QUERY_STRING=query)
    method = _one_of(environ, _METHOD)
    if method:
        found["REQUEST_METHOD"] = method
    return found


def _one_of(environ: "Mapping[str, str]", names: "tuple[str, str]") -> str:
    values = {environ[name] for name in names if environ.get(name)}
    if len(values) > 1:
        one, other = [name[5:].replace("_", "-").title() for name in names]
        raise ValueError(f"{one} and {other} differ (let the proxy remove the one that it does not set)")
    return values.pop() if values else ""
