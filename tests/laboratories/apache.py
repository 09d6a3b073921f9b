"""Apache on a machine of a laboratory, with the limiter in it."""

from __future__ import annotations

from tests.laboratories.machines import COPY, DISK, USER, Laboratory, Machine

ACCESS_LOG = "/run/access.log"
START = f"apache2 -f {DISK}/$1/httpd.conf"
"""For a machine that is switched on.  $1 is its name."""

_PID = "/run/apache.pid"
_MODULES = ("mpm_event", "authz_core", "actions", "alias", "env", "headers", "macro", "cgid")
_LOAD = "\n".join(f"LoadModule {it}_module /usr/lib/apache2/modules/mod_{it}.so" for it in _MODULES)
_CONFIGURATION = f"""\
ServerRoot /run
ServerName {{name}}
Listen 0.0.0.0:80
User {USER}
Group nogroup
PidFile {_PID}
ErrorLog /run/error.log
DefaultRuntimeDir /run
ScriptSock /run/cgid
{_LOAD}
CustomLog {ACCESS_LOG} "%a %A %U %>s"
Header always set X-Server {{name}}
<Directory />
    AllowOverride None
    Require all denied
</Directory>
Define LIMITER_HOME {COPY}
Define LIMITER_ROOT {{root}}
Include {COPY}/limiter.conf
{{more}}
"""


def configure_apache(laboratory: Laboratory, server: Machine, root: str, more: str = "") -> None:
    """Write its configuration, for a store in ``root``; it names the server in each answer."""
    text = _CONFIGURATION.format(name=server.name, root=root, more=more)
    laboratory.path(f"{server.disk}/httpd.conf").write_text(text)


def start_apache(server: Machine) -> None:
    """Start it as the distribution does."""
    server.do("sh", "-c", START, "sh", server.name)


def kill_apache(server: Machine) -> None:
    """SIGKILL all its processes, which are one group."""
    pid = server.path(_PID)
    server.do("kill", "-9", "--", f"-{int(pid.read_text())}")
    pid.unlink()
