"""What pyproject.toml cannot say: the wheel has the files for Apache, below ``share/access-limiter``.

There they lie as in a checkout, with a copy of the package: Apache runs them with its own Python.
"""

from pathlib import Path

from setuptools import setup

HOME = Path(__file__).parent
SHARED = ("cgi-bin", "clients", "deploy", "limiter")


def shared_files() -> "list[tuple[str, list[str]]]":
    """Each directory in the wheel, with the files that go there."""
    found: dict[str, list[str]] = {}
    for name in SHARED:
        for path in sorted((HOME / name).rglob("*")):
            file = path.relative_to(HOME)
            if path.is_file() and "__pycache__" not in file.parts:
                found.setdefault(f"share/access-limiter/{file.parent}", []).append(str(file))
    return [*found.items()]


setup(data_files=shared_files())
