"""A counter loses no count, even if several count at once."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from limiter import StoreError
from limiter.core.store import Store
from limiter.core.sweep import sweep_store
from limiter.report.counter import add, read, take
from tests.limiting import LATER


def add_many(root: str, number: int) -> int:
    for _ in range(number):
        add(root, "acme")
    return 0


def take_many(root: str, number: int) -> int:
    return sum(take(root, "acme", 7) for _ in range(number))


def test_what_was_added_is_taken_once(root: str) -> None:
    assert read(root, "acme") == take(root, "acme", 1) == 0
    add(root, "acme")
    add(root, "acme", 41)
    add(root, "other")
    assert read(root, "acme") == 42
    assert take(root, "acme", 40) == 40
    assert take(root, "acme", 40) == 2
    assert take(root, "acme", 40) == 0
    assert read(root, "other") == 1


def test_nothing_is_lost_between_processes_that_add_and_take(root: str) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("fork")) as processes:
        works = [(add_many, 1000)] * 6 + [(take_many, 500)] * 2
        taken = sum(it.result() for it in [processes.submit(work, root, times) for work, times in works])
    assert taken + read(root, "acme") == 6000
    assert len(os.listdir(f"{root}/.counter-acme")) == 1


def test_a_sweep_leaves_what_is_counted(root: str) -> None:
    add(root, "acme", 3)
    sweep_store(Store(root), 0, lambda: LATER)
    assert read(root, "acme") == 3


def test_a_missing_store_is_an_error(root: str) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        add(f"{root}/nowhere", "acme")


def test_a_directory_with_other_files_is_an_error(root: str) -> None:
    os.makedirs(f"{root}/.counter-acme/x")
    with pytest.raises(StoreError, match="counter cannot be changed"):
        take(root, "acme", 1)
