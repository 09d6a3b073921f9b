"""A client that sends requests at a steady rate until its standard input ends, even if requests fail.

``client.py URL RATE PATIENCE`` sends RATE requests per second, each on a new connection.  It prints a
line of JSON when a request has ended.  ``{}`` in URL stands for the number of the request.  A request
without an answer is abandoned after PATIENCE seconds.

On a machine too busy for RATE it sends fewer: a new request waits while 8 younger than 2 seconds are under
way.  Older ones may be lost, and hold up no other.
"""

import http.client
import itertools
import json
import select
import sys
import threading
import time
from urllib.parse import urlsplit

_UNDER_WAY = 8
_YOUNG = 2
_begun: "dict[int, float]" = {}  # by number, of the requests under way
_ended = threading.Event()


def _ask(number: int, url: str, patience: float) -> None:
    parts = urlsplit(url)
    request = {"number": number, "begun": _now(), "status": 0, "server": "", "error": ""}
    connection = http.client.HTTPConnection(parts.netloc, timeout=patience)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        answer.read()
        request.update(status=answer.status, server=answer.headers["X-Server"] or "")
    except (OSError, http.client.HTTPException) as error:
        request.update(error=type(error).__name__)
    finally:
        connection.close()
    request.update(ended=_now())
    sys.stdout.write(json.dumps(request) + "\n")
    sys.stdout.flush()
    del _begun[number]
    _ended.set()


def _wait_for_others() -> None:
    """Return when few enough young requests are under way."""
    while True:
        _ended.clear()
        young = sorted(it for it in list(_begun.values()) if it > time.monotonic() - _YOUNG)
        if len(young) < _UNDER_WAY:
            return
        _ended.wait(young[0] + _YOUNG - time.monotonic())


def _now() -> int:
    return time.time_ns() // 1000


def _main(url: str, rate: str, patience: str) -> None:
    threads = []
    due = time.monotonic()
    for number in itertools.count():
        _wait_for_others()
        if select.select([sys.stdin], [], [], max(0, due - time.monotonic()))[0]:
            break
        _begun[number] = time.monotonic()
        due = max(due, _begun[number]) + 1 / float(rate)
        threads.append(threading.Thread(target=_ask, args=(number, url.format(number), float(patience))))
        threads[-1].start()
    for thread in threads:
        thread.join()


_main(*sys.argv[1:])
