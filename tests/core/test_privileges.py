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


def test_a_link_of_another_user_is_not_followed(root: str) -> None:
    """It could lead to a directory of anybody, and make a program of root's act as that user."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    base = Path(root)
    for name, owner in (("victim", NOBODY), ("store", GROUP)):
        (base / name).mkdir()
        os.chown(base / name, owner, owner)
    for link, target, owner in (
        ("bad", "victim", GROUP),
        ("own", "store", GROUP),
        ("of_root", base / "victim", 0),
        ("chain", "bad", 0),
    ):
        (base / link).symlink_to(target)
        os.chown(base / link, owner, owner, follow_symlinks=False)
    (base / "up").symlink_to("store/../of_root")
    for place, owner in (("own", GROUP), ("of_root", NOBODY), ("up", NOBODY), ("victim/.", NOBODY)):
        assert _who(f"{root}/{place}").startswith(f"{(owner,) * 3}"), place
    for place in ("bad", "chain", "bad/."):
        with pytest.raises(StoreError) as error:
            become_owner(f"{root}/{place}")
        assert (error.value.errno, error.value.path) == (errno.EPERM, f"{root}/{place}")
        assert "a link of another user" in str(error.value)
    assert os.geteuid() == 0


def test_links_in_a_circle_are_an_error(root: str) -> None:
    Path(root, "one").symlink_to("two")
    Path(root, "two").symlink_to("one")
    with pytest.raises(StoreError) as error:
        become_owner(f"{root}/one")
    assert error.value.errno == errno.ELOOP


def test_no_descriptor_is_left(root: str) -> None:
    Path(root, "link").symlink_to(".")
    before = os.listdir("/proc/self/fd")
    become_owner(f"{root}/link/link")
    become_owner(f"{root}/link/missing")
    assert os.listdir("/proc/self/fd") == before


def test_a_store_whose_owner_is_unknown_is_not_used_as_root(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fstat", failing(errno.EIO))
    with pytest.raises(StoreError) as error:
        become_owner(root)
    monkeypatch.undo()
    assert (error.value.errno, error.value.path) == (errno.EIO, root)
