"""An exception in words: what it is, where it was raised, and by which calls.

Neither the sources nor the values of variables are looked at: both may hold secrets, and take time.
"""

from types import TracebackType

from limiter.masking import mask

# Of an exception's causes, and of its calls: the innermost ones.
_CAUSES_MOST = 3
_FRAMES_MOST = 40
_MESSAGE_MOST = 2000
# Of a message, before its secrets are masked: they must be whole, but to look takes time.
_LOOKED_AT_MOST = 65536


def reason_of(error: BaseException) -> str:
    """Its type and message, and those of what caused it: ``RuntimeError: no (from KeyError: 'x')``."""
    reason = describe(error)
    for _ in range(_CAUSES_MOST):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            break
        error = cause
        reason += f" (from {describe(error)})"
    return reason


def describe(error: BaseException) -> str:
    """The exception's type and message, secrets masked.  A message that cannot be had is told as such."""
    name = type(error).__name__
    try:
        message = mask(str(error)[:_LOOKED_AT_MOST])[:_MESSAGE_MOST]
    except Exception as second:
        message = f"(its message cannot be had: {type(second).__name__})"
    return f"{name}: {message}" if message else name


def stack_of(error: BaseException) -> "tuple[str, str]":
    """Where it was raised, ``file:line``, and a line ``file:line function`` for each call, innermost first."""
    frames = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append((f"{code.co_filename}:{traceback.tb_lineno}", code.co_name))
        del frames[:-_FRAMES_MOST]
        traceback = traceback.tb_next
    frames.reverse()
    where = frames[0][0] if frames else ""
    return where, "\n".join([f"{place} {function}" for place, function in frames])
