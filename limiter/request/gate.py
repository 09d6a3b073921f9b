"""The gate decides on each request by the settings, in steps: who asks, which limits, the hit, the status.

Every door has one: this one for a process that handles one request, or ``limiter.request.long_running``.
"""

from limiter.core.hit import hit
from limiter.core.limit import clock
from limiter.core.notation import parse
from limiter.core.store import Store, StoreError
from limiter.request.key import Key
from limiter.request.response import INTERNAL_SERVER_ERROR, OK, TOO_MANY_REQUESTS, UNAUTHORIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from limiter.core.decision import Decision
    from limiter.request.settings import Settings

    Log = Callable[[Exception | str], None]
    Verdict = tuple[str, Decision | None]


class Gate:
    """Decides by these settings.  ``key``, in the notation of LIMITER_KEY, replaces that setting.

    ``bounded(seconds, function, *arguments)`` returns what the function does, and raises StoreError or
    ends the process if that takes longer.  A verdict is the status to answer, and the decision if a hit
    was counted or denied.  ``log`` gets an error, or a text that reports what shadow mode would have
    denied.  Raises ValueError for a bad key.
    """

    def __init__(
        self,
        settings: "Settings",
        bounded: "Callable[..., Verdict]",
        key: "str | None" = None,
    ) -> None:
        self.settings = settings
        self._bounded = bounded
        self._key_text = settings.key if key is None else key
        self.key = Key(self._key_text, settings.trusted_proxies, settings.ipv6_prefix)
        self.constant = OK if settings.mode == "off" else settings.constant
        self.apps: str = settings.apps
        self.newcomers: str = settings.newcomers

    def verdict(
        self,
        find: "Callable[[], str | None]",
        log: "Log",
        decide: "Callable[[str], Verdict] | None" = None,
    ) -> "Verdict":
        """Decide on a request.  ``find()`` returns its valid app_id or None.  Raises no Exception.

        ``decide`` is called instead of the method of that name.
        """
        if self.constant:
            return self.enforced(None, (self.constant, None), log)
        app_id = None
        try:
            app_id = find()
            verdict = (UNAUTHORIZED, None) if app_id is None else (decide or self.decide)(app_id)
        except Exception as error:
            return self.failed(app_id, error, log)
        return self.enforced(app_id, verdict, log)

    def decide(self, app_id: str) -> "Verdict":
        """Decide on a hit of this app_id, and wait at most LIMITER_TIMEOUT for the store."""
        return self._bounded(self.settings.timeout, self.count, app_id)

    def hit(self, limits: str, app_id: str, newcomers: str) -> "Decision":
        """Count a hit against these limits.  Raises ValueError for bad limits, and StoreError."""
        store = Store(self.settings.store(app_id))
        return hit(store, parse(self.settings.share(limits)), app_id, 1, clock, newcomers)[0]

    def count(self, app_id: str) -> "Verdict":
        """Count a hit against the limits that hold for this app_id.  May wait for the store for ever."""
        place, limits, newcomers = "", self.settings.limit, self.newcomers
        if self.apps:
            from limiter.request.register import UNLIMITED, look_up

            entry = look_up(self.apps, app_id)
            if entry is None:
                return UNAUTHORIZED, None
            place, limits = entry
            if limits == UNLIMITED:
                return OK, None
            if place == f"{self.apps}/{app_id}":
                newcomers = ""  # it is no stranger
            if self.settings.rule_limits:
                place, limits = "", self.settings.rule_limits
        try:
            decision = self.hit(limits, app_id, newcomers)
        except ValueError as error:
            from limiter.core.newcomers import check  # only after a mistake

            check(self.newcomers)
            if not place:
                raise
            raise ValueError(f"{place}: {error}") from error
        return (OK if decision else TOO_MANY_REQUESTS), decision

    def enforced(self, app_id: "str | None", verdict: "Verdict", log: "Log") -> "Verdict":
        """The verdict that the client gets.  In shadow mode that is 200, and the log gets the other.

        The log also gets what the hit noticed of the store.
        """
        decision = verdict[1]
        if self.settings.notes or (decision is not None and decision.notes):
            self._log_notes(app_id or "", decision, log)
        if self.settings.mode == "enforce":
            return verdict
        if verdict[0] is not OK:
            who = "a request without a valid app_id"
            if app_id is not None:
                from limiter.request.secret_keys import MASK

                who = app_id if self.may_report() else MASK
            log(f"shadow: {who} would have got {verdict[0]}")
        return OK, None

    def _log_notes(self, app_id: str, decision: "Decision | None", log: "Log") -> None:
        from limiter.request.secret_keys import without

        notes, self.settings.notes = self.settings.notes, []
        for note in (*notes, *(decision.notes if decision is not None else ())):
            log(note if self.may_report() else str(without(app_id, note)))

    def failed(self, app_id: "str | None", error: Exception, log: "Log") -> "Verdict":
        """The verdict on a request for which this error prevented a decision.  Logs the error."""
        if app_id is not None and not self.may_report():
            from limiter.request.secret_keys import mask

            mask(app_id, error)  # the error's path may contain it
        log(error)
        has_store_failed = isinstance(error, StoreError)
        if (has_store_failed and self.settings.on_error == "admit") or self.settings.mode == "shadow":
            return OK, None
        if has_store_failed and self.settings.problem == "1":
            from limiter.request.problem_details import StoreFailed

            return StoreFailed(INTERNAL_SERVER_ERROR), None
        return INTERNAL_SERVER_ERROR, None

    def may_report(self) -> bool:
        """Whether the log may contain an app_id.  One that comes from a header may be a secret."""
        from limiter.request.secret_keys import may_report

        return may_report(self._key_text)
