"""Pages with the clients, for a real Apache: as CGI scripts, by php-cgi and by php-fpm."""

from __future__ import annotations

import glob
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import wait_until

FPM = sorted(glob.glob("/usr/sbin/php-fpm*"))
PAGES = {
    "php": "<?php require '{client}'; Limiter\\guard(); header('Content-Type: text/plain'); echo 'page';",
    "perl": """#!/usr/bin/perl
require '{client}';
Limiter::guard();
print "Content-Type: text/plain\\n\\npage";
""",
    "ruby": """#!/usr/bin/ruby --disable=gems
require '{client}'
Limiter.guard
print "Content-Type: text/plain\\n\\npage"
""",
}
SITE = """
DocumentRoot "{site}"
ScriptAlias "/php-cgi" "/usr/bin/php-cgi"
Action php-script "/php-cgi"
<Files "php-cgi">
    Require all granted
</Files>
<Directory "{site}">
    Require all granted
    {handler}
    SetEnv LIMITER_ROOT "${{LIMITER_ROOT}}"
    SetEnv LIMITER_LIMIT "20/hour;login=25/day fixed"
    Options ExecCGI
</Directory>
{more}
"""
POOL = """
[global]
error_log = {place}/log
daemonize = no
[www]
listen = {place}/socket
listen.mode = 0666
user = www-data
group = www-data
pm = static
pm.max_children = 4
catch_workers_output = yes
security.limit_extensions =
"""


@contextmanager
def php_fpm(place: Path) -> Iterator[int]:
    """Run a real php-fpm in this directory, with opcache.  Returns the number of its session."""
    place.chmod(0o755)
    (place / "pool").write_text(POOL.format(place=place))
    command = [FPM[0], "--fpm-config", str(place / "pool"), "-R"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            wait_until(lambda: process.poll() is not None or (place / "socket").exists(), "php-fpm")
            yield process.pid
        finally:
            process.terminate()
