"""The clients as their own worlds expect them: style, packages, and the settings of PHP that change its errors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from limiter import __version__
from tests.clients.kit import FILES
from tests.places import REPOSITORY

pytestmark = pytest.mark.one_python

HOME = REPOSITORY / "clients"
STYLES = {
    "php": "phpcs --standard=phpcs.xml .",
    "perl": "perlcritic --quiet --profile .perlcriticrc .",
    "ruby": "rubocop --cache false",
}
"""What checks the style of a language, in the directory of its client."""


def run(command: str, place: Path, **environment: str) -> str:
    """Run a command in this directory, without a network.  Returns its output; fails if it does."""
    words = command.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    base = {"PATH": "/usr/bin:/bin", "HOME": str(place), "LANG": "C.UTF-8"}
    ended = subprocess.run(
        words, cwd=place, env={**base, **environment}, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.parametrize("language", STYLES)
def test_the_style_is_that_of_the_language(language: str) -> None:
    run(STYLES[language], HOME / language)


@pytest.mark.parametrize("file", [*sorted((HOME / "php").glob("*.php"))], ids=lambda it: it.name)
def test_php_compiles_without_a_warning(file: Path) -> None:
    told = run(f"php -n -d error_reporting=-1 -d display_errors=1 -l {file}", file.parent)
    assert told == f"No syntax errors detected in {file}\n"


USES = {
    "php": 'require "vendor/autoload.php"; echo Limiter\\hit("{root}", "1/hour", "acme")->allowed ? "yes" : "no";',
    "perl": "use Limiter; print Limiter::hit('{root}', '1/hour', 'acme')->{{allowed}} ? 'yes' : 'no'",
    "ruby": "require 'limiter'; print Limiter.hit('{root}', '1/hour', 'acme').allowed ? 'yes' : 'no'",
}


@pytest.fixture
def checkout(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the directory of a client."""
    place = tmp_path / "checkout"
    shutil.copytree(HOME / request.param, place)
    return place


def used(command: list[str], language: str, root: str, place: Path) -> str:
    """Hit once in an application, and return what it says."""
    text = USES[language].format(root=root)
    return subprocess.run([*command, text], cwd=place, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("checkout", ["php"], indirect=True)
def test_composer_installs_it_from_a_checkout(checkout: Path, tmp_path: Path, root: str) -> None:
    application = tmp_path / "application"
    application.mkdir()
    (application / "composer.json").write_text(
        '{"repositories": [{"packagist.org": false}, {"type": "path", "url": "../checkout"}],'
        ' "require": {"access-limiter/php": "*@dev"}}'
    )
    run("composer install --no-interaction", application, COMPOSER_ALLOW_SUPERUSER="1")
    assert used(["php", "-r"], "php", root, application) == "yes"


@pytest.mark.parametrize("checkout", ["perl"], indirect=True)
def test_makemaker_installs_it_from_a_checkout(checkout: Path, tmp_path: Path, root: str) -> None:
    run(f"perl Makefile.PL INSTALL_BASE={tmp_path}/base", checkout)
    run("make install", checkout)
    assert used(["perl", f"-I{tmp_path}/base/lib/perl5", "-e"], "perl", root, tmp_path) == "yes"
    assert (tmp_path / "base/lib/perl5/Plack/Middleware/AccessLimiter.pm").exists()


@pytest.mark.parametrize("checkout", ["ruby"], indirect=True)
def test_gem_installs_it_from_a_checkout(checkout: Path, tmp_path: Path, root: str) -> None:
    run("gem build --output=it.gem access-limiter.gemspec", checkout)
    run(f"gem install --local --no-document --install-dir {tmp_path}/gems it.gem", checkout)
    (found,) = (tmp_path / "gems/gems").iterdir()
    assert found.name == f"access-limiter-{__version__}"
    assert used(["ruby", f"-I{found}", "-e"], "ruby", root, tmp_path) == "yes"
    assert (found / "limiter/rack.rb").exists()


STRICT = "set_error_handler(function ($n, $text) {{ throw new ErrorException($text); }});"
TWICE = f"require '{FILES['php']}'; require '{FILES['php']}';"
HITS = """
$it = fn () => Limiter\\hit('{root}', '2/hour', 'acme')->allowed;
echo json_encode([$it(), $it(), $it()]);
try {{ Limiter\\hit('{root}/missing', '2/hour', 'acme'); }} catch (Limiter\\StoreError $e) {{ echo $e->symbol; }}
try {{ echo $missing; }} catch (ErrorException $e) {{ echo ' thrown'; }}
"""
SCRIPTS = {
    "required twice": (TWICE + STRICT + HITS, ""),
    "warnings are exceptions": (f"{STRICT} require '{FILES['php']}';" + HITS, ""),
    "preloaded": (STRICT + HITS, f"-d opcache.enable_cli=1 -d opcache.preload={FILES['php']}"),
    "preloaded and required": (
        STRICT + TWICE + HITS,
        f"-d opcache.enable_cli=1 -d opcache.preload={FILES['php']}",
    ),
    "without opcache": (TWICE + STRICT + HITS, "-n"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_php_in_every_setting_answers_the_same(name: str, root: str, tmp_path: Path) -> None:
    """The application's own error handler is in force before and after, and never sees the client's warnings."""
    script, options = SCRIPTS[name]
    (tmp_path / "it.php").write_text("<?php " + script.format(root=root))
    base = "php -d opcache.preload_user=root -d display_errors=1"
    assert run(f"{base} {options} it.php", tmp_path) == "[true,true,false]ENOENT thrown"
