"""A survey as a page for people, and as JSON.  The page needs nothing from elsewhere, and no JavaScript."""

import json
import time
from html import escape

from limiter.request.counters import NAMES
from limiter.status.survey import BUSIEST, Standing, StoreState, Survey

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

REFRESH = 5
"""Seconds after which the browser asks again."""

_STYLE = """
:root { color-scheme: light dark; --line: #ccc; --soft: #595959; --bar: #2563a8; --full: #b3261e }
:root { --box: #f4f6f8; background: #fff; color: #1b1b1b }
@media (prefers-color-scheme: dark) {
  :root { --line: #555; --soft: #b0b0b0; --bar: #7fb2e5; --full: #f2a09b }
  :root { --box: #23272b; background: #121416; color: #e8e8e8 }
}
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1rem }
h1 { font-size: 1.3rem; margin: 0 } h2 { font-size: 1.05rem; margin: 1.6rem 0 .4rem }
p { margin: .3rem 0 } .soft { color: var(--soft) } .bad { color: var(--full); font-weight: 600 }
.wide { overflow-x: auto }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th, td { white-space: nowrap } th { font-weight: 600 }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
td.name { min-width: 6rem; max-width: 16rem; white-space: normal; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .6rem; margin: .4rem 0 }
dl div { background: var(--box); padding: .5rem .7rem; border-radius: .3rem }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums }
a { color: inherit } svg { display: block }
.bar { fill: var(--bar) } .full { fill: var(--full) } .frame { fill: none; stroke: var(--line) }
"""

_WIDTH, _HEIGHT = 160, 18


def page(survey: Survey, is_still: bool = False) -> str:
    """The page, as HTML.  ``is_still``: it does not look again by itself."""
    moment = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(survey.time))
    state = "works" if survey.is_well else "has failed"
    mode = survey.settings.mode
    again = f'this page looks again every {REFRESH} s: <a href="?still">hold it still</a>'
    if is_still:
        again = 'this page stays as it is: <a href="?">look again by itself</a>'
    about = f"version {escape(survey.version)} · {escape(moment)} · {again}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>Access Limiter: {state}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<style>{_STYLE}</style></head><body><main>\n<h1>Access Limiter: the store {state}</h1>\n"
        f'<p class="soft">{about}</p>\n'
        + (
            ""
            if mode == "enforce"
            else f'<p class="bad">LIMITER_MODE is {escape(mode)}: nobody is denied.</p>'
        )
        + _requests(survey)
        + _clients(survey)
        + "".join([_store(store) for store in survey.stores])
        + _settings(survey)
        + "</main></body></html>\n"
    )


def as_json(survey: Survey) -> str:
    """The same as JSON.  Times are in seconds, sizes in bytes."""
    sums = survey.counters
    content: dict[str, Any] = {
        "version": survey.version,
        "time": survey.time,
        "well": survey.is_well,
        "clients": [
            {
                "app_id": survey.name(it.app),
                "limit": it.limit.policy or it.limit.name,
                "used": it.used,
                "quota": it.limit.quota,
                "reset": it.reset,
            }
            for it in survey.standings[:BUSIEST]
        ],
        "at_limit": survey.at_limit,
        "near_limit": survey.near_limit,
        "stores": [vars(store) for store in survey.stores],
        "counters": None if sums is None else {**{it: sums[it] for it in NAMES}, "errors": sums.errors},
        "settings": survey.given,
    }
    return json.dumps(content, ensure_ascii=True) + "\n"


def _figures(figures: "list[tuple[str, str]]") -> str:
    inside = "".join(
        [f"<div><dt>{escape(name)}</dt><dd>{escape(it)}</dd></div>" for name, it in figures]
    )
    return f"<dl>{inside}</dl>\n"


def _requests(survey: Survey) -> str:
    if survey.counters is None:
        why = survey.counters_error or "Set LIMITER_METRICS to count them (docs/metrics.md)."
        kind = "bad" if survey.counters_error else "soft"
        return f'<h2>Requests</h2><p class="{kind}">{escape(why)}</p>\n'
    sums = survey.counters
    admitted = sums["admitted"]
    mean = f"{sums['nanoseconds'] / admitted / 1000:,.0f} µs" if admitted else "none yet"
    figures = [
        ("admitted", f"{admitted:,}"),
        ("denied", f"{sums['denied']:,}"),
        ("without an app_id", f"{sums['unauthorized']:,}"),
        ("failed", f"{sums['failed']:,}"),
        ("shadow denials", f"{sums['shadow']:,}"),
        ("near a limit", f"{sums['near']:,}"),
        ("time to admit", mean),
        ("processes", f"{sums.processes:,}"),
    ]
    errors = ", ".join([f"{name} {number:,}" for name, number in sums.errors.items()])
    more = f'<p class="bad">Errors of the store: {escape(errors)}</p>' if errors else ""
    return f"<h2>Requests since the counters began</h2>{_figures(figures)}{more}"


def _clients(survey: Survey) -> str:
    looked = sum(store.looked for store in survey.stores)
    directories = sum(store.directories for store in survey.stores)
    sample = (
        "" if looked == directories else f" This is a sample: {looked:,} of {directories:,} directories."
    )
    intro = (
        f'<h2>Clients</h2><p class="soft">{survey.at_limit:,} at a limit, {survey.near_limit:,} near one.'
        f"{sample}</p>\n"
    )
    if not survey.standings:
        return f"{intro}<p>No hit counts now.</p>\n"
    rows = "".join([_row(survey, it) for it in survey.standings[:BUSIEST]])
    head = "<th>client</th><th>limit</th><th class=number>used</th><th class=number>next free in</th>"
    return (
        f'{intro}<div class="wide" tabindex="0" role="region" aria-label="Busiest clients"><table>'
        f"<thead><tr>{head}<th>its hits, the last on the right</th></tr></thead><tbody>{rows}</tbody></table></div>\n"
    )


def _row(survey: Survey, it: Standing) -> str:
    name = escape(survey.name(it.app))
    limit = escape(it.limit.policy or it.limit.name)
    used = f"{it.used:,} of {it.limit.quota:,}"
    return (
        f'<tr><td class="name">{name}</td><td>{limit}</td><td class="number">{used}</td>'
        f'<td class="number">{it.reset:,.1f} s</td><td>{_plot(survey, it)}</td></tr>\n'
    )


def _plot(survey: Survey, it: Standing) -> str:
    """The times of the hits in the window; of a limit that knows none, the part that is used."""
    kind = "full" if it.share >= 1 else "bar"
    label = f"{it.share:.0%} used"
    marks = f'<rect class="{kind}" x="0" y="4" width="{it.share * _WIDTH:.1f}" height="10"/>'
    if len(it.times) > 1:
        now, window = survey.time * 1e6, it.limit.window
        places = sorted({round(max(0.0, 1 - (now - at) / window) * (_WIDTH - 2)) for at in it.times})
        marks = "".join([f'<rect class="{kind}" x="{x}" y="2" width="2" height="14"/>' for x in places])
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" aria-label="{label}">'
        f'<rect class="frame" x=".5" y=".5" width="{_WIDTH - 1}" height="{_HEIGHT - 1}"/>{marks}</svg>'
    )


def _store(store: StoreState) -> str:
    title = f"<h2>Store {escape(store.root)}</h2>\n"
    if store.error:
        return f'{title}<p class="bad">{escape(store.error)}</p>\n'
    inodes = f"{store.inodes_free:,}" if store.inodes else "not counted"
    figures = [
        ("file system", store.kind),
        ("clients", f"{store.clients:,}" if store.is_all else f"more than {store.clients:,}"),
        ("a claim took", f"{store.claim * 1000:,.2f} ms"),
        ("free", f"{store.bytes_free / 2**20:,.0f} MiB"),
        ("free inodes", inodes),
        ("new clients it takes in", "any" if store.newcomers is None else f"{store.newcomers:,}"),
    ]
    return title + _figures(figures)


def _settings(survey: Survey) -> str:
    rows = "".join(
        [
            f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
            for name, value in survey.given.items()
        ]
    )
    text = rows or '<tr><td colspan="2">All settings have their defaults.</td></tr>'
    head = "<thead><tr><th>setting</th><th>value</th></tr></thead>"
    return (
        '<h2>Settings in force</h2><div class="wide" tabindex="0" role="region" aria-label="Settings">'
        f"<table>{head}<tbody>{text}</tbody></table></div>\n"
    )
