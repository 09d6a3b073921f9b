"""A real Prometheus scrapes Apache's map and two WSGI servers: its sums are what was sent, whatever ends meanwhile."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from limiter.status.open_metrics import metrics
from limiter.status.survey import Survey
from tests.apache_server import apache, free_port, own_store
from tests.doors.servers import Server, running
from tests.places import REPOSITORY, temporary
from tests.waiting import SAFETY, listens, wait_until

pytestmark = [
    pytest.mark.one_python,
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed"),
]

APPLICATION = """
from limiter.wsgi import RateLimit

def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "4")])
    return [b"page"]

application = RateLimit(page)
"""
GUNICORN = [
    "gunicorn",
    "applications:application",
    "--no-control-socket",
    "--bind=unix:{socket}",
    "--workers=2",
]
CONFIGURATION = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: limiter
    metrics_path: /cgi-bin/metrics.py
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""


DEPLOY = REPOSITORY / "deploy/prometheus"


def test_the_alerts_are_valid() -> None:
    ended = subprocess.run(
        ["promtool", "check", "rules", DEPLOY / "alerts.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_alerts_and_dashboard_know_only_metrics_that_there_are(root: str, tmp_path: Path) -> None:
    given = {"LIMITER_ROOT": root, "LIMITER_METRICS": str(tmp_path)}
    survey = Survey({name.encode(): it.encode() for name, it in given.items()})
    known = set(re.findall(r"(?m)^# TYPE (\w+) ", metrics(survey, False)))
    for file in DEPLOY.iterdir():
        used = set(re.findall(r"\blimiter_\w+", file.read_text()))
        assert used
        assert used <= known, file
    json.loads((DEPLOY / "dashboard.json").read_text())


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, port: int) -> None:
        self._port = port

    def sums(self) -> dict[str, int]:
        """The newest sum of requests of each verdict."""
        query = quote("sum by (verdict) (limiter_requests_total)")
        with urlopen(
            f"http://127.0.0.1:{self._port}/api/v1/query?query={query}", timeout=SAFETY
        ) as answer:
            found = json.load(answer)["data"]["result"]
        return {it["metric"]["verdict"]: int(it["value"][1]) for it in found if it["value"][1] != "0"}


@contextmanager
def prometheus(place: Path, target: int) -> Iterator[Prometheus]:
    port = free_port()
    (place / "configuration").write_text(CONFIGURATION.format(port=target))
    command = ["prometheus", f"--config.file={place}/configuration", f"--storage.tsdb.path={place}/data"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or listens(port), "Prometheus listens")
        assert process.poll() is None, (place / "log").read_text()
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(SAFETY)


def test_sums_are_what_was_sent_over_a_restart_and_a_kill(installed: Path) -> None:
    with ExitStack() as stack:
        place, counters, one, two = [stack.enter_context(temporary("/tmp")) for _ in range(4)]
        counters.chmod(0o777)
        settings: dict[str, str] = {
            "LIMITER_ROOT": str(own_store(place)),
            "LIMITER_LIMIT": "10/hour",
            "LIMITER_METRICS": str(counters),
        }
        web = stack.enter_context(
            apache("event", installed, {**settings, "LIMITER_PATHS": "^/map"}, modules=("rewrite",))
        )
        seen = stack.enter_context(prometheus(place, web.port))
        sent: Counter[str] = Counter()

        def ask(door: Server | None, app: str, number: int) -> None:
            for _ in range(number):
                path = f"/map?app_id={app}"
                status = web.ask(path).status if door is None else door.ask(path)
                sent["denied" if status == 429 else "unauthorized" if status == 401 else "admitted"] += 1

        first = stack.enter_context(running(GUNICORN, APPLICATION, one, **settings))
        with running(GUNICORN, APPLICATION, two, **settings) as second:
            for door in (None, first, second):
                ask(door, "acme", 8)
                ask(door, "", 2)
            wait_until(lambda: seen.sums() == sent, "Prometheus has seen all")
        # The second server has ended.  A worker of the first is killed, and replaced.
        ask(None, "other", 3)
        for child in Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()[:1]:
            os.kill(int(child), signal.SIGKILL)
        ask(first, "third", 15)
        with running(GUNICORN, APPLICATION, two, **settings) as second:
            ask(second, "fourth", 15)
            wait_until(lambda: seen.sums() == sent, "Prometheus has seen all")
        assert sent == {"admitted": 10 + 3 + 10 + 10, "denied": 14 + 5 + 5, "unauthorized": 6}
