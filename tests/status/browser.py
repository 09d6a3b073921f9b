"""The status page in a real Chromium.  ``python -m tests.status.browser docs`` takes the pictures of the documents."""

from __future__ import annotations

import random
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from limiter import Limiter, wsgi
from limiter.core.limit import clock, make
from limiter.request.gates import Gates
from tests.places import temporary

CHROMIUM, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)


class _Silent(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def page(**settings: str) -> Iterator[str]:
    """Serve the status of these settings.  Returns its URL."""

    def application(environ, start_response):  # type: ignore[no-untyped-def]
        return wsgi.status({**environ, **settings}, start_response)

    with make_server("127.0.0.1", 0, application, handler_class=_Silent) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def browser(width: int = 1000, height: int = 900, is_dark: bool = False) -> Iterator[webdriver.Chrome]:
    """Run Chromium with a window of this size."""
    if not (shutil.which(CHROMIUM) and shutil.which(DRIVER)):
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with temporary("/tmp") as profile:
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        driver = webdriver.Chrome(options, Service(DRIVER))
        try:
            # A window of Chromium is at least 500 pixels wide.
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            yield driver
        finally:
            driver.quit()


def fill(root: str, clients: int) -> None:
    """Make so many clients, of which the first are busy."""
    dice = random.Random(2017)
    for number in range(clients):
        if number < 10:
            limiter = Limiter(root, "20/minute" if number % 3 else "20/minute fixed", newcomers="")
            for _ in range(20 - 2 * number):
                limiter.hit(f"client-{number}")
        else:
            directory = Path(root, f"client-{number}@20-per-60s-fixed")
            directory.mkdir()
            (directory / make(clock() - dice.randrange(50_000_000), False, dice.randrange(1, 9))).touch()


@contextmanager
def load(root: str, metrics: str) -> Iterator[None]:
    """Let a process that stays answer requests all the time, most of them denied."""
    variables = {"LIMITER_ROOT": root, "LIMITER_LIMIT": "100/second", "LIMITER_METRICS": metrics}
    gate = Gates(None, None).choose(variables)
    is_over = Event()

    def ask() -> None:
        while not is_over.wait(0.002):
            for app in ("flood", "flood", "steady", None):
                gate.verdict(lambda app=app: app, lambda _: None)  # type: ignore[misc]

    thread = Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def take_pictures(directory: Path) -> None:
    """Take a picture of the page with nothing, 10 and 100,000 clients, light and dark, and on a phone."""
    scenes = {"empty": (0, 1000, False), "10-dark": (10, 1000, True), "100000": (100_000, 1000, False)}
    scenes["phone"] = (10, 400, False)
    for name, (clients, width, is_dark) in scenes.items():
        with ExitStack() as stack:
            root, metrics = [str(stack.enter_context(temporary("/dev/shm"))) for _ in range(2)]
            fill(root, clients)
            if clients:
                stack.enter_context(load(root, metrics))
                time.sleep(1.5)  # for figures worth seeing
            url = stack.enter_context(page(LIMITER_ROOT=root, LIMITER_METRICS=metrics))
            driver = stack.enter_context(browser(width, 860, is_dark))
            driver.get(url)
            driver.save_screenshot(str(directory / f"status-{name}.png"))
            print(f"{directory}/status-{name}.png")


if __name__ == "__main__":
    take_pictures(Path(sys.argv[1]))
