"""Whoever furnishes first does not own an app_id: all who may use a store can use what is in it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from limiter.core import furnish
from limiter.core.limiter import NEWCOMERS, Limiter
from limiter.core.store import StoreError
from limiter.report.counter import add
from tests.faults import run
from tests.limiting import used

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")

LIMITS = "3/minute;20/hour"
GROUP = 2000


@dataclass
class User:
    """Somebody who hits, with the umask that most have."""

    uid: int
    gid: int
    groups: Sequence[int] = ()
    umask: int = 0o022

    def does(self, action: Callable[[], object]) -> str:
        """What an action of this user returns, or the error of the store."""

        def act() -> None:
            os.umask(self.umask)
            os.setgroups(self.groups)
            os.setgid(self.gid)
            os.setuid(self.uid)
            try:
                said = str(action())
            except StoreError as error:
                said = str(error)
            os.write(1, said.encode())

        ended = run(act)
        assert (ended.killed, ended.code) == (False, 0)
        return ended.output.decode()

    def hits(self, root: str, limits: str = LIMITS, cost: int = 1) -> str:
        """What this user's hit says: whether it was admitted, or the error."""
        return self.does(lambda: Limiter(root, limits, newcomers=NEWCOMERS).hit("acme", cost).allowed)


ROOT = User(0, 0)
OWNER = User(1000, 1000)
ANN, BEN = User(1001, 1001, [GROUP]), User(1002, 1002, [GROUP])
EVE = User(1003, 1003)


def store_of(root: str, uid: int, gid: int, mode: int) -> str:
    """Make a directory in which there may be a store of somebody's."""
    os.chown(root, uid, gid)
    os.chmod(root, mode)
    return root


def all_hit(root: str, users: Sequence[User]) -> None:
    """Let each user hit in turn, first or after another.  Law L1: each is admitted."""
    assert [user.hits(root) for user in users] == ["True"] * len(users)
    now = Limiter(root)._clock()
    assert used(root, LIMITS, now) == [len(users)] * 2


@pytest.mark.parametrize("users", [(ROOT, OWNER), (OWNER, ROOT, OWNER)], ids=["first", "later"])
@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_hit_by_root_locks_nobody_out(root: str, users: Sequence[User], mode: int) -> None:
    store_of(root, OWNER.uid, OWNER.gid, mode)
    all_hit(root, users)
    found = [path.stat() for path in Path(root).rglob("*")]
    assert {(status.st_uid, status.st_gid) for status in found} == {(OWNER.uid, OWNER.gid)}


@pytest.mark.parametrize("umask", [0o022, 0o077])
@pytest.mark.parametrize("first", [ANN, ROOT], ids=["member", "root"])
def test_a_second_user_of_the_group_is_not_locked_out(root: str, first: User, umask: int) -> None:
    """With umask 022, a new directory is not writable for the group."""
    store_of(root, OWNER.uid, GROUP, 0o2770)
    all_hit(root, [User(first.uid, first.gid, first.groups, umask), BEN, ANN])


def test_a_group_without_the_bit_that_hands_it_down(root: str) -> None:
    """Mode 770: a new directory gets the group of the user at first, not that of the store."""
    store_of(root, OWNER.uid, GROUP, 0o770)
    all_hit(root, [ANN, BEN])


def test_a_store_for_all_users(root: str) -> None:
    """Mode 1777, as a directory for temporary files has."""
    store_of(root, OWNER.uid, GROUP, 0o1777)
    all_hit(root, [EVE, BEN, OWNER])


def test_nobody_gets_more_than_the_store_gives(root: str) -> None:
    """A directory is not writable for a group or for others if the store is not."""
    store_of(root, OWNER.uid, GROUP, 0o750)
    assert OWNER.hits(root) == "True"
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o777 for path in Path(root).iterdir()}
    assert modes == {0o750}


def test_a_further_directory_is_for_all_too(root: str) -> None:
    store_of(root, OWNER.uid, GROUP, 0o2770)
    assert ANN.hits(root, "20/hour", 17) == "True"
    assert [BEN.hits(root, "20/hour") for _ in range(4)] == ["True"] * 3 + ["False"]


def test_a_counter_is_for_all_too(root: str) -> None:
    store_of(root, OWNER.uid, GROUP, 0o2770)
    assert [user.does(lambda: add(root, "x")) for user in (ROOT, ANN, BEN)] == ["None"] * 3


@pytest.mark.parametrize(
    ("owner", "mode", "users"), [((1000, 1000), 0o755, (ROOT, OWNER)), ((0, GROUP), 0o2770, (ANN, BEN))]
)
def test_the_lock_out_is_seen(
    root: str, monkeypatch: pytest.MonkeyPatch, owner: tuple[int, int], mode: int, users: list[User]
) -> None:
    """What these tests show fails if a directory has the owner and mode that its maker gives it."""
    monkeypatch.setattr(furnish, "_share", lambda *_: None)
    store_of(root, *owner, mode)
    with pytest.raises(AssertionError, match="Permission denied"):
        all_hit(root, users)


# What the error says


@pytest.mark.parametrize(
    ("owner", "mode", "user"), [((1000, 1000), 0o755, OWNER), ((1000, GROUP), 0o2770, ANN)]
)
def test_the_error_on_a_foreign_directory_names_the_owner_and_what_to_do(
    root: str, owner: tuple[int, int], mode: int, user: User
) -> None:
    """An administrator may have copied it as root.  What the error says helps."""
    store_of(root, *owner, mode)
    foreign = Path(root, "acme@3-per-60s")
    assert user.hits(root) == "True"
    os.chown(foreign, 0, 0)
    os.chmod(foreign, 0o700)
    error = user.hits(root)
    assert error.startswith("[Errno 13] Permission denied")
    assert f"({foreign} belongs to user 0:0, mode 700, and this is user {user.uid}:{user.gid}; " in error
    (advice,) = re.findall(r"if it should be as the store is: (.*)\): ", error)
    subprocess.run(advice, shell=True, check=True)
    status = foreign.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*owner, mode)
    assert user.hits(root) == "True"


def test_the_error_on_a_foreign_store_does_not_say_to_take_it(root: str) -> None:
    """Its directory is as it should be, and this user is wrong here."""
    store_of(root, OWNER.uid, OWNER.gid, 0o755)
    error = EVE.hits(root)
    assert f"({root} belongs to user 1000:1000, mode 755, and this is user 1003:1003; run " in error
    assert "chown" not in error


def test_the_error_on_a_store_that_cannot_be_seen_names_the_directory_in_the_way(root: str) -> None:
    store = Path(root, "private", "store")
    store.mkdir(parents=True)
    store_of(str(store.parent), OWNER.uid, OWNER.gid, 0o700)
    assert f"({store.parent} belongs to user 1000:1000, mode 700" in EVE.hits(str(store))
