"""A store that cannot hang is called in the caller's own thread, and any other in another thread."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from limiter.core.limiter import Limiter
from limiter.core.mount import LOCAL, Mount
from limiter.core.store import StoreError
from limiter.request.long_running import LongRunningGate
from limiter.request.response import OK
from limiter.request.store_access import StoreAccess
from tests.hanging import hanging_mount
from tests.places import temporary

MINUTE = 60


def is_direct(access: StoreAccess) -> bool:
    """Call the store, and return whether this thread did it."""
    threads: list[int] = []

    def decide(_: str) -> tuple[str, None]:
        threads.append(threading.get_ident())
        return OK, None

    before = access.is_direct()
    assert access.call(decide, "acme") == (OK, None)
    assert before == (threads == [threading.get_ident()])
    return before


def access_of(*places: str | Path, clock: Callable[[], float] | None = None) -> StoreAccess:
    more = {} if clock is None else {"clock": clock}
    return StoreAccess(60.0, lambda: map(str, places), **more)


def test_a_local_store_is_called_directly_after_a_first_look(root: str) -> None:
    access = access_of(root)
    assert [is_direct(access) for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize("kind", [*LOCAL, "fuse.glusterfs", "nfs4", "cifs", "ceph", "9p", "unheard-of"])
def test_the_type_of_its_file_system_decides(
    root: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("limiter.request.store_access.mounted", lambda _: Mount("/", kind, "source"))
    access = access_of(root)
    assert [is_direct(access) for _ in range(3)] == [False, *2 * [kind in LOCAL]]


def test_all_that_a_call_uses_must_be_local(root: str) -> None:
    with hanging_mount() as mount:
        access = access_of(root, mount.path)
        assert [is_direct(access) for _ in range(3)] == [False] * 3


@pytest.mark.parametrize("error", [OSError(24, "no descriptor"), ValueError("no mount")])
def test_where_nobody_knows_it_is_not_direct(
    root: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(_: str) -> Mount:
        raise error

    monkeypatch.setattr("limiter.request.store_access.mounted", fail)
    access = access_of(root)
    assert [is_direct(access) for _ in range(3)] == [False] * 3


def test_it_looks_again_after_a_minute(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each look the first call is made in another thread."""
    kinds = iter(["xfs", "xfs", "nfs", "ext4"])
    monkeypatch.setattr("limiter.request.store_access.mounted", lambda _: Mount("/", next(kinds), ""))
    now = [0.0]
    access = access_of(root, clock=lambda: now[0])
    seen = []
    for _ in range(4):
        seen.append([is_direct(access) for _ in range(3)])
        now[0] += MINUTE
    assert seen == [[False, True, True]] * 2 + [[False] * 3, [False, True, True]]


def test_a_call_that_fails_proves_nothing(root: str) -> None:
    access = access_of(root)

    def fail(_: str) -> tuple[str, None]:
        raise StoreError(5, "it fails", root)

    for _ in range(2):
        with pytest.raises(StoreError, match="it fails"):
            access.call(fail, "acme")
        assert not access.is_direct()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_what_is_mounted_over_a_store_is_noticed_within_a_minute() -> None:
    now = [0.0]
    with hanging_mount() as mount, temporary("/tmp") as store:
        access = access_of(store, clock=lambda: now[0])
        assert [is_direct(access) for _ in range(2)] == [False, True]
        subprocess.run(["mount", "--bind", mount.path, store], check=True)
        try:
            now[0] += MINUTE
            assert [is_direct(access) for _ in range(2)] == [False, False]
        finally:
            subprocess.run(["umount", store], check=True)
        now[0] += MINUTE
        assert [is_direct(access) for _ in range(2)] == [False, True]


def test_a_gate_knows_whether_its_store_is_local(root: str, apps: str) -> None:
    with hanging_mount() as mount:
        for settings, limiter, expected in (
            ({"ROOT": root}, None, True),
            ({"ROOT": str(mount.path)}, None, False),
            ({"ROOT": root, "APPS": str(mount.path)}, None, False),
            ({"ROOT": root, "APPS": apps}, None, True),
            ({"ROOT": f"{root}:{mount.path}"}, None, None),
            ({}, None, True),
            ({}, Limiter(root, "1/day"), True),
            ({"ROOT": root}, Limiter(str(mount.path), "1/day"), False),
        ):
            environ = {f"LIMITER_{name}".encode(): it.encode() for name, it in settings.items()}
            gate = LongRunningGate(environ, limiter)
            found = {}
            for app_id in map("app-{}".format, range(60)):  # so each of two stores has some
                gate.decide(app_id)
                found[gate._root(app_id)] = gate.is_direct(app_id)
            if expected is None:
                assert found == {root: True, str(mount.path): False}
            else:
                assert set(found.values()) == {expected}
