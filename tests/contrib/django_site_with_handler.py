"""The same site, with a view of its own for what is denied."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from limiter.contrib.django import TooManyRequests
from tests.contrib.django_site import urlpatterns

__all__ = ["handler429", "urlpatterns"]


def handler429(request: HttpRequest, exception: TooManyRequests) -> HttpResponse:
    """Answer in the site's own words."""
    left = 0.0 if exception.decision is None else exception.decision.retry_after
    return HttpResponse(
        f"Slow down for {left > 0}: {request.path}", status=429, content_type="text/plain"
    )
