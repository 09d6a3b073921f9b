"""The commands about clients: hit, show, top and reset, for people and as JSON."""

import json
import os
import sys
import time
from datetime import datetime

from limiter.cgi import log
from limiter.core.decision import Decision
from limiter.core.limiter import Limiter
from limiter.core.privileges import become_owner
from limiter.core.store import is_app
from limiter.request import register
from limiter.request.settings import Settings
from limiter.status.survey import BUSIEST, Standing, Survey
from limiter.tools import apps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LAST_HITS = 10
_CLEAR = "\033[H\033[J"
_BOLD, _RED, _PLAIN = "\033[1m", "\033[31m", "\033[0m"


def hit(text: str, wait: float, is_json: bool) -> int:
    """Count a hit, and wait so many seconds for it to be admitted.  Returns 0 if it was, else 1."""
    app, root, chosen = _application(text, is_json)
    if chosen is None:
        return 0
    become_owner(root)
    end = time.monotonic() + wait
    decision = chosen.hit(app)
    while not decision and time.monotonic() + decision.retry_after <= end:
        time.sleep(decision.retry_after)
        decision = chosen.hit(app)
    for note in decision.notes:
        log(note)
    if is_json:
        _print_json(app, decision, [])
    else:
        print(f"{app}: {'allowed' if decision else f'denied, retry after {decision.retry_after:.3f} s'}")
        _print_quotas(decision, [])
    return 0 if decision else 1


def show(text: str, is_json: bool) -> int:
    """Show where one client stands.  Returns 0."""
    app, root, chosen = _application(text, is_json)
    if chosen is None:
        return 0
    decision, hits = chosen.peek(app), chosen.hits(app)
    if is_json:
        _print_json(app, decision, hits)
        return 0
    print(f"{app} in {root}")
    _print_quotas(decision, hits)
    for note in decision.notes:
        print(f"  {note}")
    return 0


def reset(text: str) -> int:
    """Forget the hits of a client.  Returns 0."""
    app, root, chosen = _application(text, False)
    if chosen is not None:
        become_owner(root)
        chosen.reset(app)
        print(f"{app}: no hit counts any more")
    return 0


def show_all(is_json: bool) -> int:
    """Show the busiest clients.  Returns 0, or 2 if a store failed."""
    survey = Survey(os.environb)
    if is_json:
        from limiter.status.page import as_json

        print(as_json(survey), end="")
    else:
        print("\n".join(_table(survey, sys.stdout.isatty())))
    return 0 if survey.is_well else 2


def top(seconds: float, number: int) -> int:
    """Show the busiest clients again and again, ``number`` times, or until interrupted if it is 0."""
    is_terminal = sys.stdout.isatty()
    shown = 0
    try:
        while True:
            survey = Survey(os.environb)
            lines = _table(survey, is_terminal)
            print((_CLEAR if is_terminal else "") + "\n".join(lines), flush=True)
            shown += 1
            if shown == number:
                return 0
            time.sleep(seconds)
    except KeyboardInterrupt:
        return 0


def _table(survey: Survey, is_colourful: bool) -> "list[str]":
    bold, red, plain = (_BOLD, _RED, _PLAIN) if is_colourful else ("", "", "")
    moment = datetime.fromtimestamp(survey.time).astimezone().strftime("%H:%M:%S")
    lines = []
    for store in survey.stores:
        if store.error:
            lines.append(f"{red}{store.root}: {store.error}{plain}")
            continue
        clients = f"{store.clients}{'' if store.is_all else ' or more'} clients"
        looked = "" if store.looked == store.directories else f", a sample of {store.looked} directories"
        lines.append(
            f"{store.root}  {moment}  {clients}{looked}, a claim took {store.claim * 1000:.2f} ms"
        )
    sums = survey.counters
    if sums is not None:
        lines.append(f"admitted {sums['admitted']}, denied {sums['denied']}, failed {sums['failed']}")
    lines.append(f"{survey.at_limit} at a limit, {survey.near_limit} near one")
    if survey.standings:
        lines.append(f"{bold}{'CLIENT':<32} {'LIMIT':<24} {'USED':>15} {'NEXT FREE':>12}{plain}")
    for it in survey.standings[:BUSIEST]:
        lines.append(_line(survey, it, red, plain))
    return lines


def _line(survey: Survey, it: Standing, red: str, plain: str) -> str:
    name, limit = survey.name(it.app), it.limit.policy or it.limit.name
    text = f"{name:<32} {limit:<24} {f'{it.used} of {it.limit.quota}':>15} {it.reset:>10.1f} s"
    return f"{red}{text}{plain}" if it.share >= 1 else text


def _application(text: str, is_json: bool) -> "tuple[str, str, Limiter | None]":
    """Return the app_id, its store and its limiter.  If it is unlimited: None, and print that."""
    settings = Settings(os.environb)
    app = apps.app_id_of(text, settings)
    limits = settings.limit
    if settings.apps and is_app(app):
        entry = register.look_up(settings.apps, app)
        if entry is None:
            raise ValueError(
                f"{app} is not in the register {settings.apps}, which has no .default (401)"
            )
        limits = entry[1]
    if limits == register.UNLIMITED:
        print(json.dumps({"app_id": app, "unlimited": True}) if is_json else f"{app}: unlimited")
        return app, "", None
    root = apps.store_of(settings, app)
    return app, root, Limiter(root, settings.share(limits), newcomers="")


def _print_json(app: str, decision: Decision, hits: "list[list[int]]") -> None:
    """Print a decision: times in seconds; ``retry_after`` null if the hit is never allowed."""
    never = decision.retry_after == float("inf")
    content: dict[str, Any] = {
        "app_id": app,
        "allowed": decision.allowed,
        "retry_after": None if never else decision.retry_after,
        "limits": [
            {
                "limit": it.limit.policy or it.limit.name,
                "quota": it.limit.quota,
                "remaining": it.remaining,
                "reset": it.reset_after,
                **({"hits": [time / 1e6 for time in hits[nth]]} if hits else {}),
            }
            for nth, it in enumerate(decision.quotas)
        ],
        "notes": [*decision.notes],
    }
    print(json.dumps(content))


def _print_quotas(decision: Decision, hits: "list[list[int]]") -> None:
    for index, quota in enumerate(decision.quotas):
        most = quota.limit.quota
        used = most - quota.remaining
        more = f", next free in {quota.reset_after:.3f} s" if used else ""
        print(f"  {quota.limit.name}: {used} of {most} used{more}")
        for moment in hits[index][-_LAST_HITS:] if hits else []:
            when = datetime.fromtimestamp(moment / 1_000_000).astimezone()
            print(f"    {when.isoformat(' ', 'microseconds')}")
