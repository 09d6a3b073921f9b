"""Describes an exception in text: its type and message, the place where it was raised, and the calls.

It does not read source files or the values of variables, because both may hold secrets and take time.
"""

from types import TracebackType

from limiter.report.masking import mask

# At most so many causes are named, and so many calls (the innermost ones).
_CAUSES_MOST = 3
_FRAMES_MOST = 40
_MESSAGE_MOST = 2000
# A message is cut to this length before masking.  Masking needs whole secrets, but takes time.
_LOOKED_AT_MOST = 65536


def reason_of(error: BaseException) -> str:
    """Return type and message of an error and its causes: ``RuntimeError: no (from KeyError: 'x')``."""
    reason = describe(error)
    for _ in range(_CAUSES_MOST):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause is None:
            break
        error = cause
        reason += f" (from {describe(error)})"
    return reason


def describe(error: BaseException) -> str:
    """Return the exception's type and message, with secrets masked.  If ``str`` fails, it says so."""
    name = type(error).__name__
    try:
        message = mask(str(error)[:_LOOKED_AT_MOST])[:_MESSAGE_MOST]
    except Exception as second:
        message = f"(its message cannot be had: {type(second).__name__})"
    return f"{name}: {message}" if message else name


def stack_of(error: BaseException) -> "tuple[str, str]":
    """Return the place, ``file:line``, and the calls.

    Each call is one line, ``file:line function``, the innermost first.
    """
    frames: list[tuple[str, str]] = []
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.insert(0, (f"{code.co_filename}:{traceback.tb_lineno}", code.co_name))
        del frames[_FRAMES_MOST:]
        traceback = traceback.tb_next
    where = frames[0][0] if frames else ""
    return where, "\n".join([f"{place} {function}" for place, function in frames])
