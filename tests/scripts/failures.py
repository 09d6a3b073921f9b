"""Scripts that fail, one for each way to fail, and the answer and the log line of each."""

from __future__ import annotations

from typing import NamedTuple


class Failure(NamedTuple):
    """A script, what is logged, and what the client gets."""

    script: str
    reason: str
    """The beginning of the logged reason."""
    status: int = 500
    left: bytes | None = None
    """What had been sent already, if the response can no longer be replaced."""
    line: int = 0
    """The line of the script where it failed, if it is logged."""
    words: str = ""
    """A part of the logged stack."""


BEGIN = "#!/usr/bin/python3\nfrom limiter import errors\nerrors.install()\n"
PAGE = 'print("Content-Type: text/plain\\n\\nHalf a page")\n'
HALF = b"Half a page\n"
DIVISION = "ZeroDivisionError: division by zero"
_SENT = 'print("Content-Type: text/plain\\n\\nHalf a page", flush=True)\nprint("no more of it")\n'
_MUCH = f"{PAGE}print(70_000 * 'x')\nprint('no more of it')\n"
_NO_HEADER = "ValueError: The script has ended before its headers were complete"
_NO_RESPONSE = "ValueError: The script's output is no response: "

# Python scripts with limiter.errors, without their beginning, BEGIN.
FAILURES = {
    "before-headers": Failure("1 / 0", DIVISION),
    "after-headers": Failure(PAGE + "1 / 0", DIVISION),
    "after-much": Failure(PAGE + 'print(60_000 * "x")\n1 / 0', DIVISION),
    "after-a-flush": Failure(_SENT + "1 / 0", DIVISION, 200, HALF),
    "after-too-much": Failure(_MUCH + "1 / 0", DIVISION, 200, HALF + 70_000 * b"x"),
    "surrogate": Failure('raise ValueError("\\ud800 \\0\\n")', "ValueError: \\ud800 \0\n"),
    "no-message": Failure(
        "class Mute(Exception):\n    def __str__(self):\n        raise KeyError\nraise Mute",
        "Mute: (its message cannot be had: KeyError)",
    ),
    "warning": Failure(
        "import warnings\nerrors.install(warnings=[DeprecationWarning])\n"
        "warnings.warn('old', DeprecationWarning)",
        "DeprecationWarning: old",
    ),
    "thread": Failure(
        "import threading\ndef work():\n    1 / 0\n"
        f"{PAGE}threading.Thread(target=work).start()\nthreading.Event().wait()",
        DIVISION,
    ),
    "destructor": Failure(
        f"class Last:\n    def __del__(self):\n        1 / 0\n{PAGE}last = Last()\ndel last\nprint('more')",
        DIVISION,
    ),
    "at-exit": Failure(f"import atexit\natexit.register(lambda: 1 / 0)\n{PAGE}", DIVISION),
    "exit-in-header": Failure('import sys\nprint("Content-Type: text/html")\nsys.exit(3)', _NO_HEADER),
    "silence": Failure("pass", _NO_HEADER),
    # tests/scripts/test_cgi_header.py has all that is no header.
    "garbage": Failure('print("Hello!\\n\\nworld")', _NO_RESPONSE),
    "interrupt": Failure("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "closed-file": Failure("import sys\nsys.stdout.close()\nprint()", "ValueError: "),
    "wrong-setting": Failure('errors.install(smtp="a b")', "ValueError: LIMITER_SMTP='a b': "),
    "not-found": Failure(PAGE + "raise errors.NotFound('order 7')", "NotFound: order 7", 404),
}

_PYTHON = "#!/usr/bin/python3\n"
_PERL = "#!/usr/bin/perl\n"
_PHP = "<?php ini_set('display_errors', '0'); ini_set('log_errors', '1'); ini_set('error_log', '');\n"
_EXIT = "the script ended with exit status"
_SILENT = "the script wrote nothing for "

# Scripts that know nothing of the guard that supervises them.  A loop makes the file "begun".
SUPERVISED = {
    "segmentation.py": Failure(
        f"{_PYTHON}import ctypes\ndef crash():\n  ctypes.memset(0, 1, 1)\ncrash()\n",
        "the script was killed by SIGSEGV",
        line=4,
        words="Fatal Python error: Segmentation fault",
    ),
    "cpu.py": Failure(
        f"{_PYTHON}import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 3))\n"
        "while True: print('X: y', sum(range(10 ** 5)), flush=True)\n",
        "the script was killed by SIGXCPU (its limit of CPU time)",
    ),
    "loop.py": Failure(
        f"{_PYTHON}while True: open('begun', 'w').close()\n",
        _SILENT,
        504,
        line=2,
        words="Fatal Python error: Aborted",
    ),
    "loop.pl": Failure(f"{_PERL}while (1) {{ open F, '>', 'begun'; }}\n", _SILENT, 504),
    "missing.py": Failure(
        "#!/nowhere/python3\n", "FileNotFoundError: [Errno 2] No such file or directory"
    ),
    # tests/scripts/test_cgi_header.py has all that is no header.
    "endless_header.pl": Failure(
        f'{_PERL}while (1) {{ print "X: y\\n"; }}',
        "the script's output is no response: there is no blank",
    ),
    "closed.sh": Failure("#!/bin/sh\nexec >&-\nexec sleep 60\n", "the script ended without any output"),
    "header_only.sh": Failure("#!/bin/sh\necho Content-Type: text/plain\necho\nexit 3\n", f"{_EXIT} 3"),
    "wordy.py": Failure(
        f"{_PYTHON}import sys\nsys.stderr.write(('x' * 99 + '\\n') * 10486)\n"
        "def divide():\n  1 / 0\ndivide()\n",
        f"{_EXIT} 1",
        line=5,
        words=DIVISION,
    ),
    "die.pl": Failure(f"{_PERL}die 'It dies.';\n", f"{_EXIT} 255", line=2, words="It dies. at "),
    "raise.rb": Failure(
        "#!/usr/bin/ruby\ndef nest()\n  raise 'It raises.'\nend\nnest()\n",
        f"{_EXIT} 1",
        line=3,
        words="It raises. (RuntimeError)",
    ),
    "half_a_page.php": Failure(
        f"{_PHP}ob_start();\necho 'half a page';\nnowhere();\n",
        f"{_EXIT} 255",
        line=4,
        words="Call to undefined function nowhere()",
    ),
}
