"""Acting as the owner of a store: permanently, and only if the owner is not root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from limiter.core.privileges import become_owner
from limiter.core.store import StoreError
from tests.faults import run
from tests.limiting import failing

NOBODY, GROUP = 65534, 65533


def _who(root: str) -> str:
    """Return the user that a process then runs as, and whether it can become root again."""

    def become() -> None:
        become_owner(root)
        os.write(1, f"{os.getresuid()} {os.getresgid()} {os.getgroups()}".encode())

    return run(become).output.decode()


def test_root_becomes_the_owner_and_its_group_and_nothing_else(root: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    os.chown(root, NOBODY, GROUP)
    assert _who(root) == f"{(NOBODY,) * 3} {(GROUP,) * 3} []"


@pytest.mark.parametrize("store", [".", "missing"])
def test_without_another_owner_nothing_changes(root: str, store: str) -> None:
    started = f"{os.getresuid()} {os.getresgid()} {os.getgroups()}"
    assert _who(str(Path(root, store))) == started


def test_a_store_whose_owner_is_unknown_is_not_used_as_root(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "stat", failing(errno.EIO))
    with pytest.raises(StoreError) as error:
        become_owner(root)
    assert (error.value.errno, error.value.path) == (errno.EIO, root)
