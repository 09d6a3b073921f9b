"""A client that sends requests at a steady rate until its standard input ends, even if requests fail.

``client.py URL RATE PATIENCE`` sends RATE requests per second, each on a new connection.  When a request
has ended, it prints these lines: ``begun`` and the time; ``number`` and its number; ``error``, if there is
no answer; ``server`` and who answered; ``status``; ``ended`` and the time.  ``{}`` in URL stands for the
number.  A request without an answer is abandoned after PATIENCE seconds.

On a machine too busy for RATE it sends fewer: a new request waits while 8 younger than 2 seconds are under
way.  Older ones may be lost, and hold up no other.
"""

import http.client
import itertools
import os
import select
import sys
import threading
import time
from urllib.parse import urlsplit

_UNDER_WAY = 8
_YOUNG = 2
_begun: "dict[int, float]" = {}  # by number, of the requests under way
_ended = threading.Event()


def _request(number: int, url: str, patience: float) -> None:
    parts = urlsplit(url)
    lines = [f"begun {_now()}", f"number {number}"]
    connection = http.client.HTTPConnection(parts.netloc, timeout=patience)
    try:
        connection.request("GET", f"{parts.path}?{parts.query}")
        answer = connection.getresponse()
        answer.read()
        lines += [f"server {answer.headers['X-Server'] or ''}", f"status {answer.status}"]
    except (OSError, http.client.HTTPException) as error:
        lines.append(f"error {error!r}")
    finally:
        connection.close()
    lines += [f"ended {_now()}", ""]
    os.write(1, "\n".join(lines).encode())  # all at once, beside other requests
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
        request = (number, url.format(number), float(patience))
        threads.append(threading.Thread(target=_request, args=request))
        threads[-1].start()
    for thread in threads:
        thread.join()


_main(*sys.argv[1:])
