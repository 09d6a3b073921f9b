"""Scripts with the guard are never sent as text: neither with the limiter's configuration nor without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.apache_server import apache, found_program, module_lines
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

SCRIPT = '#!/bin/sh\nprintf "Content-Type: text/plain\\n\\nran"\n'
SITE = """
DocumentRoot "{site}"
<Directory "{site}">
    Require all granted
    AllowOverride All
    {guarded}
</Directory>
"""
GUARDED = "Use Limited"
MODULES = ("mpm_event", "unixd", "authz_core", "actions", "alias", "env", "headers", "macro", "cgid")


@pytest.fixture
def site(place: Path) -> Path:
    (place / "script").write_text(SCRIPT)
    (place / "script").chmod(0o755)
    return place


def checked(site: Path, without: str = "", configuration: str = "") -> str:
    """Return what Apache says of a configuration of this site that lacks a module; "" if it is right."""
    file = site / "httpd.conf"
    lines = [f'ServerRoot "{site}"\nErrorLog "{site}/log"', "ServerName localhost", "Listen 127.0.0.1:1"]
    lines.append(module_lines([it for it in MODULES if it != without]))
    lines += [configuration, SITE.format(site=site, guarded=GUARDED)]
    file.write_text("\n".join(lines))
    ended = subprocess.run(
        [found_program(), "-t", "-f", file], check=False, capture_output=True, text=True
    )
    return "" if ended.returncode == 0 else ended.stderr


def include(home: Path) -> str:
    return f'Define LIMITER_HOME "{home}"\nInclude "{REPOSITORY}/deploy/apache/limiter.conf"'


def test_with_the_configuration_the_script_runs(installed: Path, site: Path) -> None:
    after = SITE.format(site=site, guarded=GUARDED)
    with apache("event", installed, after=after) as server:
        reply = server.ask("/script?app_id=acme")
        assert (reply.status, reply.body) == (200, b"ran")
        assert server.ask("/script").status == 401


def test_without_the_configuration_apache_does_not_start(installed: Path, site: Path) -> None:
    assert checked(site, configuration=include(installed)) == ""
    assert "no macro defined before Use" in checked(site)
    assert "Invalid command 'Use'" in checked(site, without="macro")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            "actions",
            "Access Limiter needs mod_actions, or Apache would send the text of guarded scripts",
        ),
        ("macro", "Access Limiter needs mod_macro: a2enmod macro"),
        ("cgid", "Access Limiter needs mod_cgid"),
    ],
)
def test_without_a_module_apache_does_not_start(
    installed: Path, site: Path, module: str, message: str
) -> None:
    assert message in checked(site, module, include(installed))


def test_in_htaccess_a_condition_keeps_the_scripts_closed(installed: Path, site: Path) -> None:
    """A file .htaccess cannot use the macro."""
    (site / ".htaccess").write_text(
        "SetHandler limited\n<IfDefine !LIMITER_GUARD>\n    Require all denied\n</IfDefine>\n"
    )
    after = SITE.format(site=site, guarded="")
    with apache("event", installed, after=after) as server:
        assert server.ask("/script?app_id=acme").body == b"ran"
    with apache("event", installed, after=after, limiter=False) as server:
        assert server.ask("/script?app_id=acme").status == 403
    (site / ".htaccess").write_text("Use Limited\n")
    with apache("event", installed, after=after, limiter=False) as server:
        assert server.ask("/script?app_id=acme").status == 500
