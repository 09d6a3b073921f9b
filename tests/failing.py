"""Scripts that fail, one for each way to fail, and what the log must say about each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

TIMEOUT = "2"
"""The LIMITER_SCRIPT_TIMEOUT for these scripts.  Scripts that end by themselves end sooner."""
SILENT = f"the script wrote nothing for {TIMEOUT} seconds"


class Failing(NamedTuple):
    """A script, and what is logged about it."""

    text: str
    reason: str
    """A part of the logged reason."""
    line: int = 0
    """The line of the script where it failed, if it is logged."""
    words: str = ""
    """A part of the logged stack."""
    status: int = 500
    mode: int = 0o755

    def add(self, path: Path) -> None:
        """Write the script."""
        path.write_bytes(self.text.encode("latin-1"))
        path.chmod(self.mode)


_PYTHON = "#!/usr/bin/python3\n"
_PERL = "#!/usr/bin/perl\n"
_RUBY = "#!/usr/bin/ruby\n"
_PHP = "<?php ini_set('display_errors', '0'); ini_set('log_errors', '1'); ini_set('error_log', '');\n"
_HEADER = r"Content-Type: text/plain\n"
_NOT_A_RESPONSE = "the script's output is no response: "
_ENDED_ONE = "the script ended with exit status 1"

FAILING = {
    "segmentation.py": Failing(
        f"{_PYTHON}import ctypes\ndef crash():\n  ctypes.memset(0, 1, 1)\ncrash()\n",
        "the script was killed by SIGSEGV",
        4,
        "Fatal Python error: Segmentation fault",
    ),
    "abort.py": Failing(
        f"{_PYTHON}import os\nos.abort()\n",
        "the script was killed by SIGABRT",
        3,
        "Fatal Python error: Aborted",
    ),
    "bus.py": Failing(
        f"{_PYTHON}import mmap, os, tempfile\nfile = tempfile.TemporaryFile()\nfile.truncate(4096)\n"
        "memory = mmap.mmap(file.fileno(), 4096)\nfile.truncate(0)\nmemory[0]\n",
        "the script was killed by SIGBUS",
        7,
        "Fatal Python error: Bus error",
    ),
    "stack.py": Failing(
        f"{_PYTHON}import sys\nsys.setrecursionlimit(10 ** 9)\nnest = []\n"
        "for _ in range(60000): nest = [nest]\nrepr(nest)\n",
        "the script was killed by SIGSEGV",
        6,
        "Fatal Python error: Segmentation fault",
    ),
    "killed.py": Failing(
        f"{_PYTHON}import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n",
        "the script was killed by SIGKILL (out of memory?  The kernel's log tells)",
    ),
    "cpu.py": Failing(
        f"{_PYTHON}import resource\nresource.setrlimit(resource.RLIMIT_CPU, (1, 3))\n"
        "while True: print('X: y', sum(range(10 ** 5)), flush=True)\n",
        "the script was killed by SIGXCPU (its limit of CPU time)",
    ),
    "raises.py": Failing(
        f"{_PYTHON}def divide():\n  return 1 / 0\ndivide()\n",
        _ENDED_ONE,
        3,
        "ZeroDivisionError: division by zero",
    ),
    "loop.py": Failing(f"{_PYTHON}while True: pass\n", SILENT, status=504),
    "loop.pl": Failing(f"{_PERL}while (1) {{}}\n", SILENT, status=504),
    "loop_after_header.py": Failing(
        f"{_PYTHON}print('{_HEADER}', flush=True)\nwhile True: pass\n",
        SILENT,
        status=504,
    ),
    "missing.py": Failing(
        "#!/nowhere/python3\n",
        "FileNotFoundError: [Errno 2] No such file or directory (the interpreter in its first line does not",
    ),
    "unexecutable.py": Failing(
        _PYTHON, "PermissionError: [Errno 13] Permission denied (is it executable?", mode=0o644
    ),
    "binary": Failing("\x7f\x01\x02", "it needs a first line that names its interpreter"),
    "garbage.sh": Failing(
        "#!/bin/sh\necho Hello\n", f"{_NOT_A_RESPONSE}line 1 of its header, b'Hello': has no colon"
    ),
    "control.pl": Failing(
        f'{_PERL}print "Content-Type: text/plain\\nX: \\0\\n\\n";',
        f"{_NOT_A_RESPONSE}line 2 of its header, b'X: \\x00': has control characters",
    ),
    "status.sh": Failing(
        "#!/bin/sh\necho Status: fine\necho\n",
        f"{_NOT_A_RESPONSE}line 1 of its header, b'Status: fine': expected a status from 200 to 599",
    ),
    "endless_header.pl": Failing(
        f'{_PERL}while (1) {{ print "X: y\\n"; }}',
        f"{_NOT_A_RESPONSE}there is no blank line in its first 64",
    ),
    "nothing.sh": Failing("#!/bin/sh\n", "the script ended without any output"),
    "half.sh": Failing("#!/bin/sh\necho X: Y\n", "the script ended before the end of its header"),
    "closed.sh": Failing("#!/bin/sh\nexec >&-\nexec sleep 60\n", "the script ended without any output"),
    "header_only.sh": Failing(
        "#!/bin/sh\necho Content-Type: text/plain\necho\nexit 3\n", "the script ended with exit status 3"
    ),
    "wordy.py": Failing(
        f"{_PYTHON}import sys\nsys.stderr.write(('x' * 99 + '\\n') * 10486)\nraise ValueError('the last')\n",
        _ENDED_ONE,
        4,
        "ValueError: the last",
    ),
    "die.pl": Failing(f"{_PERL}die 'It dies.';\n", "exit status 255", 2, "It dies. at "),
    "killed.pl": Failing(f"{_PERL}print 'X:'; kill 'KILL', $$; sleep 9", "killed by SIGKILL"),
    "raise.rb": Failing(f"{_RUBY}raise 'It raises.'\n", _ENDED_ONE, 2, "It raises. (RuntimeError)"),
    "stack.rb": Failing(
        f"{_RUBY}def nest()\n  nest()\nend\nnest()\n",
        _ENDED_ONE,
        3,
        "stack level too deep (SystemStackError)",
    ),
    "killed.rb": Failing(f"{_RUBY}print 'X:'; Process.kill('KILL', $$); sleep 9", "killed by SIGKILL"),
    "fatal.php": Failing(
        f"{_PHP}nowhere();\n", "exit status 255", 2, "Call to undefined function nowhere()", mode=0o644
    ),
    "memory.php": Failing(
        f"{_PHP}ini_set('memory_limit', '8M');\nstr_repeat('x', 1 << 24);\n",
        "exit status 255",
        3,
        "Allowed memory size of 8388608 bytes exhausted",
        mode=0o644,
    ),
    "half_a_page.php": Failing(
        f"{_PHP}ob_start();\necho 'half a page';\nnowhere();\n",
        "exit status 255",
        4,
        "Call to undefined function nowhere()",
        mode=0o644,
    ),
    "killed.php": Failing(f"{_PHP}posix_kill(getmypid(), 9);\n", "killed by SIGKILL", mode=0o644),
}
