"""Scripts that fail in every way, and the answer that each must get."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

BEGIN = "#!/usr/bin/python3\nfrom limiter import errors\nerrors.install()\n"
PAGE = 'print("Content-Type: text/plain\\n\\nHalf a page")\n'
_SENT = 'print("Content-Type: text/plain\\n\\nHalf a page", flush=True)\nprint("no more of it")\n'
HALF = b"Half a page\n"
_NO_RESPONSE = "ValueError: The script's output is no response: line 1 of its header, "


class Failure(NamedTuple):
    """A script, what the client gets, and the beginning of the logged reason."""

    script: str
    status: int
    reason: str
    left: bytes | None = None
    """What had been sent already, if the response can no longer be replaced."""
    fields: Mapping[str, str] = MappingProxyType({})


FAILURES = {
    "before-headers": Failure("1 / 0", 500, "ZeroDivisionError: division by zero"),
    "between-headers": Failure('print("Content-Type: text/html")\n1 / 0', 500, "ZeroDivisionError: "),
    "after-headers": Failure(PAGE + "1 / 0", 500, "ZeroDivisionError: "),
    "after-much": Failure(PAGE + 'print(60_000 * "x")\n1 / 0', 500, "ZeroDivisionError: "),
    "after-a-flush": Failure(_SENT + "1 / 0", 200, "ZeroDivisionError: ", HALF),
    "after-too-much": Failure(
        PAGE + 'print(70_000 * "x")\nprint("no more of it")\n1 / 0',
        200,
        "ZeroDivisionError: ",
        HALF + 70_000 * b"x",
    ),
    "bytes": Failure(
        'import sys\nsys.stdout.buffer.write(b"Content-Type: image/png\\r\\n\\r\\n\\x89")\n1 / 0',
        500,
        "ZeroDivisionError: ",
    ),
    "not-ascii": Failure(
        'raise ValueError("K\\u00e4se \\U0001f9c0")', 500, "ValueError: K\u00e4se \U0001f9c0"
    ),
    "surrogate": Failure(
        'raise ValueError("\\ud800 \\0 \\x1b[31m\\n")', 500, "ValueError: \\ud800 \0 \x1b[31m\n"
    ),
    "no-message": Failure(
        "class Mute(Exception):\n    def __str__(self):\n        raise KeyError\nraise Mute",
        500,
        "Mute: (its message cannot be had: KeyError)",
    ),
    "huge-message": Failure(
        'raise ValueError(1_000_000 * "\\u00e4")', 500, "ValueError: \u00e4\u00e4\u00e4"
    ),
    "caused": Failure(
        "try:\n    {}['x']\nexcept KeyError as error:\n    raise RuntimeError('no') from error",
        500,
        "RuntimeError: no (from KeyError: 'x')",
    ),
    "warning": Failure(
        "import warnings\nerrors.install(warnings=[DeprecationWarning])\n"
        "warnings.warn('old', DeprecationWarning)",
        500,
        "DeprecationWarning: old",
    ),
    "thread": Failure(
        "import threading\ndef work():\n    1 / 0\n"
        f"{PAGE}threading.Thread(target=work).start()\nthreading.Event().wait()",
        500,
        "ZeroDivisionError: ",
    ),
    "bare-thread": Failure(
        "import _thread, time\nbegun = _thread.allocate_lock()\nbegun.acquire()\n"
        "def work():\n    begun.release()\n    1 / 0\n"
        f"{PAGE}_thread.start_new_thread(work, ())\nbegun.acquire()\n"
        "while _thread._count():\n    time.sleep(0.001)",
        500,
        "ZeroDivisionError: ",
    ),
    "destructor": Failure(
        f"class Last:\n    def __del__(self):\n        1 / 0\n{PAGE}last = Last()\ndel last\nprint('more')",
        500,
        "ZeroDivisionError: ",
    ),
    "at-exit": Failure(
        f"import atexit\natexit.register(lambda: 1 / 0)\n{PAGE}", 500, "ZeroDivisionError: "
    ),
    "recursion": Failure("def deeper():\n    deeper()\ndeeper()", 500, "RecursionError: "),
    "memory": Failure(
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (200 << 20, 200 << 20))\n"
        "kept = []\nsize = 1 << 24\nwhile size > 16:\n    try:\n        kept.append(bytes(size))\n"
        "    except MemoryError:\n        size //= 2\nbytes(1 << 24)",
        500,
        "MemoryError",
    ),
    "too-many-open-files": Failure(
        "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\nfiles = []\nwhile True:\n"
        '    files.append(open("/dev/null"))',
        500,
        "OSError: [Errno 24] Too many open files: '/dev/null'",
    ),
    "exit-in-header": Failure(
        'import sys\nprint("Content-Type: text/html")\nsys.exit(3)', 500, "SystemExit: 3"
    ),
    "exit-well-in-header": Failure(
        'import sys\nprint("Content-Type: text/html")\nsys.exit()',
        500,
        "ValueError: The script has ended before its headers were complete",
    ),
    "bare-exit-in-header": Failure(
        'print("Content-Type: text/html")\nraise SystemExit(3)',
        500,
        "ValueError: The script has ended before its headers were complete",
    ),
    "exit-in-page": Failure(
        PAGE + 'import sys\nsys.exit("database gone")', 500, "SystemExit: database gone"
    ),
    "exit-of-site": Failure(PAGE + "exit(1)", 500, "SystemExit: 1"),
    "exit-after-a-flush": Failure(
        _SENT + "import sys\nsys.exit(1)", 200, "SystemExit: 1 (headers had been sent)", HALF
    ),
    "exit-while-failing": Failure(
        PAGE + "import sys\ntry:\n    {}['x']\nexcept KeyError:\n    sys.exit(2)",
        500,
        "SystemExit: 2 (from KeyError: 'x')",
    ),
    "silence": Failure("pass", 500, "ValueError: The script has ended before its headers were complete"),
    "garbage": Failure('print("Hello!\\n\\nworld")', 500, f"{_NO_RESPONSE}b'Hello!': has no colon"),
    "json-without-headers": Failure(
        """print('{"id": 1}\\n\\n')""",
        500,
        f"{_NO_RESPONSE}b'{{\"id\": 1}}': does not begin with a name",
    ),
    "html-without-headers": Failure(
        """print('<html xmlns="http://www.w3.org/1999/xhtml">\\n\\n<p>Hello')""",
        500,
        f"{_NO_RESPONSE}b'<html xmlns=",
    ),
    "no-status": Failure(
        'print("Status: fine\\n\\n")',
        500,
        f"{_NO_RESPONSE}b'Status: fine': expected a status from 200 to 599",
    ),
    "control-in-header": Failure(
        'print("X: \\x01\\n\\n")', 500, f"{_NO_RESPONSE}b'X: \\x01': has control characters"
    ),
    "endless-header": Failure(
        'while True:\n    print("X: y")',
        500,
        "ValueError: The script's output is no response: there is no blank line in its first 64 KiB",
    ),
    "interrupt": Failure("raise KeyboardInterrupt", 500, "KeyboardInterrupt"),
    "closed-file": Failure("import sys\nsys.stdout.close()\nprint()", 500, "ValueError: "),
    "wrong-setting": Failure(
        'errors.install(smtp="a b")', 500, "ValueError: LIMITER_SMTP='a b': expected 'host', 'host:port'"
    ),
    "bad-request": Failure("raise errors.BadRequest('no number')", 400, "BadRequest: no number"),
    "unauthorized": Failure(
        "raise errors.Unauthorized(challenge='Bearer')",
        401,
        "Unauthorized",
        None,
        {"WWW-Authenticate": "Bearer"},
    ),
    "not-found": Failure(PAGE + "raise errors.NotFound('order 7')", 404, "NotFound: order 7"),
    "method": Failure(
        "raise errors.MethodNotAllowed(allow=['GET', 'HEAD'])",
        405,
        "MethodNotAllowed",
        None,
        {"Allow": "GET, HEAD"},
    ),
    "too-many": Failure(
        "raise errors.TooManyRequests(retry_after=1.5)",
        429,
        "TooManyRequests",
        None,
        {"Retry-After": "2"},
    ),
    "unavailable": Failure(
        "raise errors.ServiceUnavailable('backup', retry_after=60)",
        503,
        "ServiceUnavailable: backup",
        None,
        {"Retry-After": "60"},
    ),
    "timeout": Failure("raise errors.GatewayTimeout('database')", 504, "GatewayTimeout: database"),
}
PHRASES = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
