"""The status page in a real Chromium: no error, nothing from elsewhere, and fit for everybody."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from axe_core_python.selenium import Axe

from tests.places import temporary
from tests.status.browser import browser, fill, load, page

pytestmark = pytest.mark.one_python


def messages(driver: Any) -> list[str]:
    """What the console of the browser shows."""
    return [it["message"] for it in driver.get_log("browser")]


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize(("clients", "width"), [(0, 1000), (30, 1000), (30, 400)])
def test_the_page_is_fit_for_people(clients: int, width: int, is_dark: bool) -> None:
    with ExitStack() as stack:
        root, metrics = [str(stack.enter_context(temporary("/dev/shm"))) for _ in range(2)]
        fill(root, clients)
        if clients:
            stack.enter_context(load(root, metrics))
        url = stack.enter_context(page(LIMITER_ROOT=root, LIMITER_METRICS=metrics))
        driver = stack.enter_context(browser(width, is_dark=is_dark))
        driver.get(url)
        assert driver.title == "Access Limiter: works"
        assert ("client-0" in driver.page_source) == (clients > 0)
        # The page itself never scrolls sideways: only a table may.
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        names = "return performance.getEntriesByType('resource').map(it => it.name)"
        assert driver.execute_script(names) == []
        back = "return getComputedStyle(document.documentElement).colorScheme"
        assert driver.execute_script(back) == "light dark"
        # A policy that lets nothing run keeps axe out, too, unless the driver puts it in.
        faults = Axe().run(driver)["violations"]
        assert [(it["id"], [node["html"] for node in it["nodes"]]) for it in faults] == []
        assert messages(driver) == []


def test_hostile_names_do_nothing(root: str) -> None:
    """A directory of a store may have any name that a file may have."""
    from pathlib import Path

    from limiter.core.limit import clock, make

    label = "x@<img src=x onerror=alert(1)>=5-per-3600s"
    for name in (label, "app<b>@5-per-3600s-fixed", "a@login=5-per-3600s-fixed"):
        Path(root, name).mkdir()
        Path(root, name, make(clock(), False, 3)).touch()
    with page(LIMITER_ROOT=root, LIMITER_LIMIT="5/hour") as url, browser() as driver:
        driver.get(url)
        assert driver.execute_script("return document.images.length + document.scripts.length") == 0
        assert "login" in driver.page_source
        assert messages(driver) == []
