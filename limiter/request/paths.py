"""The path of a request, and every reading of it that an application may make.

An application behind the limiter may treat different spellings as one path: ``/login``, ``/x/../login``,
``/x/..;/login``, ``//login``, ``/login;a=b``, ``/%6Cogin``.  A rule must hold for all of them.  Does no
input or output.

A path here is decoded once, as CGI, WSGI and ASGI give it.  Bytes that are not UTF-8 are surrogates.
"""

from limiter.request.key import unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def is_plain(path: str) -> bool:
    """Whether every application reads this path alike."""
    return not ("//" in path or "/." in path or ";" in path or "%" in path or "\\" in path)


def readings(path: str) -> "frozenset[str]":
    """Every path that an application may take this one for; at most 16, mostly one.

    Repeated slashes count once, and ``;parameters`` are dropped.  Dot segments are resolved or not, before
    the parameters are dropped or after, with repeated slashes or without.  ``%XX`` may be decoded again,
    and a backslash may be a slash.
    """
    if is_plain(path):
        return frozenset([path])
    spellings = {path, _decode(path)}
    spellings |= {it.replace("\\", "/") for it in spellings}
    found: set[str] = set()
    for spelling in spellings:
        bare = _without_parameters(spelling)
        merged = _merge(bare)
        later = _without_parameters(_resolve(spelling))
        found |= {merged, _resolve(merged), _merge(_resolve(bare)), _merge(later)}
    return frozenset(found)


def path_of(environ: "Mapping[bytes, bytes]") -> "tuple[str, str]":
    """The path that the client asked for, and the path of the script, from CGI variables.

    The first is that of REQUEST_URI.  Apache may have chosen a script with another path (rewriting,
    MultiViews, DirectoryIndex).  Without REQUEST_URI both are the script's.
    """
    script = environ.get(b"SCRIPT_NAME", b"") + environ.get(b"PATH_INFO", b"")
    url = environ.get(b"REQUEST_URI", b"").partition(b"?")[0].partition(b"#")[0]
    if url[:1] != b"/" and b"://" in url:  # a client may send a complete URL
        url = b"/" + url.partition(b"://")[2].partition(b"/")[2]
    return text_of(unquote(url) or script), text_of(script)


def text_of(path: bytes) -> str:
    """A path as text."""
    return path.decode("utf-8", "surrogateescape")


def _decode(path: str) -> str:
    return text_of(unquote(path.encode("utf-8", "surrogateescape"))) if "%" in path else path


def _without_parameters(path: str) -> str:
    if ";" not in path:
        return path
    return "/".join([segment.partition(";")[0] for segment in path.split("/")])


def _merge(path: str) -> str:
    while "//" in path:
        path = path.replace("//", "/")
    return path


def _resolve(path: str) -> str:
    """The path without dot segments (RFC 3986, 5.2.4)."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    is_directory = segments[-1] in (".", "..")
    return "/" + "/".join(kept) + ("/" if is_directory and kept and kept[-1] else "")
