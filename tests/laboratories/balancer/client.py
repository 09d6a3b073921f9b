"""A client that sends requests at a steady rate until its standard input ends, even if requests fail.

``client.py URL RATE PATIENCE`` sends RATE requests per second, each on a new connection.  It prints a
line of JSON when a request has ended.  ``{}`` in URL stands for the number of the request.  A request
without an answer is abandoned after PATIENCE seconds.
"""

import http.client
import itertools
import json
import select
import sys
import threading
import time
from urllib.parse import urlsplit


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


def _now() -> int:
    return time.time_ns() // 1000


def _main(url: str, rate: str, patience: str) -> None:
    threads = []
    begun = time.monotonic()
    for number in itertools.count():
        rest = begun + number / float(rate) - time.monotonic()
        if select.select([sys.stdin], [], [], max(0, rest))[0]:
            break
        threads.append(threading.Thread(target=_ask, args=(number, url.format(number), float(patience))))
        threads[-1].start()
    for thread in threads:
        thread.join()


_main(*sys.argv[1:])
