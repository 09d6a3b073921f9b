"""The views of a site, for the tests of Django."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import path

from limiter.contrib.django import rate_limit


def everybody(request: HttpRequest) -> str:
    """One client for all."""
    return f"{request.method}"


def page(request: HttpRequest) -> HttpResponse:
    """What the middleware has decided."""
    decision: Any = getattr(request, "limiter_decision", None)
    return HttpResponse("nothing" if decision is None else str(decision.remaining))


async def async_page(request: HttpRequest) -> HttpResponse:
    """The same."""
    return page(request)


def failing(request: HttpRequest) -> HttpResponse:
    """A login that fails."""
    return HttpResponse("no", status=401)


urlpatterns = [
    path("page", page),
    path("async", async_page),
    path("login", failing),
    path("limited", rate_limit("view=2/hour", key=everybody)(page)),
    path("limited-async", rate_limit("view=2/hour", key=everybody)(async_page)),
    path("by-parameter", rate_limit("other=2/hour")(page)),
]
