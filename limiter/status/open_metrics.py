"""A survey as metrics: OpenMetrics 1.0, or the text format 0.0.4 of Prometheus, which differ in a few words.

Names follow Prometheus's conventions (prometheus.io/docs/practices/naming): base units, ``_total`` for counters.
No client is a label: a million clients would be a million time series.
"""

from limiter.request.counters import NAMES
from limiter.status.survey import Survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Sample = tuple[str, dict[str, str], float]
    """What follows the name of the metric, the labels, and the value."""

OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=0.0.4; charset=utf-8"

_VERDICTS = NAMES[:5]


def metrics(survey: Survey, is_open: bool) -> str:
    """The text.  ``is_open``: OpenMetrics."""
    lines: list[str] = []
    for name, kind, unit, meaning, samples in _families(survey):
        family = name if is_open or kind != "counter" else f"{name}_total"
        lines.append(f"# HELP {family} {meaning}")
        lines.append(f"# TYPE {family} {kind}")
        if is_open and unit:
            lines.append(f"# UNIT {family} {unit}")
        for suffix, labels, value in samples:
            inside = ",".join([f'{key}="{_escaped(text)}"' for key, text in labels.items()])
            number = repr(value) if isinstance(value, int) else f"{value:.9g}"
            lines.append(f"{name}{suffix}{'{' + inside + '}' if inside else ''} {number}")
    if is_open:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _families(survey: Survey) -> "Iterator[tuple[str, str, str, str, Iterable[Sample]]]":
    """Each metric: its name, type, unit, meaning and samples."""
    version = ("", {"version": survey.version}, 1)
    yield "limiter_build_info", "gauge", "", "The version of the limiter.", [version]
    yield from _counters(survey)

    def gauge(value: str) -> "list[Sample]":
        return [("", {"store": it.root}, getattr(it, value)) for it in survey.stores if not it.error]

    up = [("", {"store": it.root}, int(not it.error)) for it in survey.stores]
    yield "limiter_store_up", "gauge", "", "Whether a claim in the store succeeded just now.", up
    meaning = "How long a claim in the store took just now."
    yield "limiter_store_claim_seconds", "gauge", "seconds", meaning, gauge("claim")
    meaning = "Clients with a directory in the store, up to 100000."
    yield "limiter_store_clients", "gauge", "", meaning, gauge("clients")
    yield "limiter_store_looked", "gauge", "", "Directories looked into, at most 2000.", gauge("looked")
    for name, meaning in (("free", "Free bytes of the file system."), ("size", "Its bytes.")):
        value = gauge("bytes_free" if name == "free" else "bytes")
        yield f"limiter_store_{name}_bytes", "gauge", "bytes", meaning, value
    meaning = "Free inodes of the file system; 0 if it does not count them."
    yield "limiter_store_free_inodes", "gauge", "", meaning, gauge("inodes_free")
    rooms: list[Sample] = [
        ("", {"store": it.root}, it.newcomers) for it in survey.stores if it.newcomers is not None
    ]
    yield "limiter_store_newcomers", "gauge", "", "How many new clients it takes in now.", rooms
    meaning = "Clients without a hit left, among those looked at."
    yield "limiter_clients_at_limit", "gauge", "", meaning, [("", {}, survey.at_limit)]
    meaning = "Clients with less than a tenth left, among those looked at."
    yield "limiter_clients_near_limit", "gauge", "", meaning, [("", {}, survey.near_limit)]


def _counters(survey: Survey) -> "Iterator[tuple[str, str, str, str, Iterable[Sample]]]":
    sums = survey.counters
    if sums is None:
        return
    requests: list[Sample] = [("_total", {"verdict": name}, sums[name]) for name in _VERDICTS]
    yield "limiter_requests", "counter", "", "Requests by verdict, of processes that stay.", requests
    meaning = "Admitted requests that left less than a tenth of a limit."
    yield "limiter_near_limit", "counter", "", meaning, [("_total", {}, sums["near"])]
    errors: list[Sample] = [("_total", {"errno": it}, number) for it, number in sums.errors.items()]
    yield "limiter_store_errors", "counter", "", "Failures of the store by errno.", errors
    seconds: list[Sample] = [("_total", {}, sums["nanoseconds"] / 1e9)]
    yield "limiter_store_seconds", "counter", "seconds", "Time that decisions took.", seconds
    yield "limiter_processes", "gauge", "", "Processes that count now.", [("", {}, sums.processes)]


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
