"""Which app_ids may be reported: the value of a header or of a secret parameter may be a key."""

_SECRET = (
    *("auth", "code", "cookie", "cred", "jwt", "key", "nonce", "otp"),
    *("pass", "pwd", "secret", "sess", "sid", "sig", "token"),
)
MASK = "***"

# Characters that continue a name.  An app_id "1" must not be masked in every text that contains a 1.
_WORD = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


def is_secret(name: str) -> bool:
    """Whether a parameter of this name looks like a secret."""
    name = name.casefold()
    return any([word in name for word in _SECRET])


def may_report(key: str) -> bool:
    """Whether an app_id may be reported that comes from this key, in the notation of LIMITER_KEY."""
    return ":" not in key and not is_secret(key)


def mask(app_id: str, error: BaseException) -> None:
    """Mask the app_id in the text of an exception, and of the exceptions that led to it."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause.args = tuple([without(app_id, it) for it in cause.args])
        for name in ("strerror", "filename"):  # an OSError shows these
            if isinstance(getattr(cause, name, None), str):
                setattr(cause, name, without(app_id, getattr(cause, name)))
        cause = cause.__cause__ or cause.__context__


def without(app_id: str, value: object) -> object:
    """The value, with the app_id masked if it is text."""
    if not isinstance(value, str):
        return value
    text, *parts = value.split(app_id)
    for part in parts:
        is_longer = text[-1:] in _WORD or part[:1] in _WORD
        text += (app_id if is_longer else MASK) + part
    return text
