"""The API over a session: start an export, poll it, list all of them, list the subusers."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import attrs

from sendgrid_exports.api.polling import (
    Decision,
    Done,
    GiveUp,
    PollAgain,
    Polling,
    certainly_not_processed,
    decide,
    is_transient,
    may_have_started,
    timed_out,
)
from sendgrid_exports.api.subusers import is_last_page, read_subusers, subusers_request
from sendgrid_exports.api.turns import Turns
from sendgrid_exports.api.wire import (
    listing_request,
    read_export,
    read_id,
    read_listing,
    read_scopes,
    scopes_request,
    status_request,
)
from sendgrid_exports.delays import Random, poll_delay
from sendgrid_exports.errors import (
    APIError,
    ExportNotReadyError,
    ExportTimeoutError,
    InvalidResponseError,
    PermissionDeniedError,
    SendGridExportsError,
)
from sendgrid_exports.events import ExportStarted, OnEvent, Retrying, StatusPolled
from sendgrid_exports.http import Request, Response
from sendgrid_exports.models import ContactExport, ExportListing, ExportStatus, Subuser
from sendgrid_exports.redaction import redact_text
from sendgrid_exports.session import Session
from sendgrid_exports.settings import PollPolicy
from sendgrid_exports.timing import Clock, Deadline, ServerClock

__all__ = ["Exports"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

_START_ATTEMPTS = 4
# Longer than a period of the rate limits, which is a minute and given in whole seconds.
_LONGEST_START_DELAY = 90.0
_MOST_PAGES = 1000
_SHORTEST_RENEWAL = 60.0
_SECONDS_NEW = 60.0
_MOST_REMEMBERED = 1000
_ORPHAN = "An export may be running all the same: list_exports(), or the command list, shows it."
_RESUME = "Wait or fetch again with the same id to resume."


class Exports:
    """SendGrid's exports, as one account sees them."""

    def __init__(
        self,
        *,
        api_key: str,
        base_url: str,
        on_behalf_of: str | None,
        session: Session,
        turns: Turns,
        clock: Clock,
        random: Random,
        polling: PollPolicy,
        user_agent: str,
    ) -> None:
        self._api_key = api_key
        self._base_url = base_url
        self._on_behalf_of = on_behalf_of
        self.turns = turns
        self._session = session
        self._clock = clock
        self._random = random
        self.policy = polling
        self._headers = {
            "Authorization": f"Bearer {api_key}",
            "Accept": "application/json",
            "User-Agent": user_agent,
        }
        if on_behalf_of is not None:
            self._headers["on-behalf-of"] = on_behalf_of
        # By export id: until when it is new, and which were seen ready. Both stay small.
        self._new: dict[str, float] = {}
        self._seen_ready: dict[str, None] = {}
        self.server_clock = ServerClock(clock)

    async def start(
        self,
        request: Request,
        *,
        deadline: Deadline,
        on_event: OnEvent,
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> str:
        """Start an export and return its id; again only if it certainly did not start.

        `before` is called right before each attempt is sent; what it raises is raised.

        Raises:
            ExportTimeoutError: the deadline is reached; there may be an export all the same.
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        attempts = 0
        while True:
            try:
                async with self._timeout(deadline):
                    export_id = await self._call(request, read_id, before)
            except TimeoutError:
                raise ExportTimeoutError(
                    f"The timeout passed before SendGrid answered the start. {_ORPHAN}",
                    export_id="",
                ) from None
            except SendGridExportsError as error:
                attempts += 1
                delay = self._delay_after(error, attempts)
                if (
                    not certainly_not_processed(error)
                    or attempts >= _START_ATTEMPTS
                    or delay >= min(_LONGEST_START_DELAY, deadline.left(self._clock.monotonic()))
                ):
                    raise (
                        error.with_advice(_ORPHAN) if may_have_started(error) else error
                    ) from None
                on_event(Retrying(export_id=None, reason=str(error), delay=delay))
                await self._clock.sleep(delay)
            else:
                now = self._clock.monotonic()
                self._new = {known: end for known, end in self._new.items() if end > now}
                self._new[export_id] = now + _SECONDS_NEW
                on_event(ExportStarted(export_id=export_id))
                return export_id

    async def get(self, export_id: str) -> ContactExport:
        """Return the export as it is now, after one request.

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        return await self._call(status_request(export_id), read_export)

    async def list_exports(self) -> tuple[ExportListing, ...]:
        """Return every export SendGrid still lists, over all pages.

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        listings: list[ExportListing] = []
        asked: set[str] = set()
        prefix = urlsplit(self._base_url).path
        page: str | None = None
        while True:
            request = listing_request(page)
            asked.add(request.target)
            found, page = await self._call(request, read_listing)
            listings += found
            page = page and page.removeprefix(prefix)
            if page is None or page in asked:
                return tuple(listings)
            if len(asked) >= _MOST_PAGES:
                raise InvalidResponseError(
                    f"SendGrid's list of exports does not end: {page} is its page "
                    f"{_MOST_PAGES + 1}. Ask for one export by its id."
                )

    async def subusers(self, *, on_event: OnEvent) -> AsyncGenerator[Subuser, None]:
        """Yield the subusers, page by page, each once.

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        offset = largest = 0
        known: set[str] = set()
        while True:
            request = subusers_request(offset)
            page = await self.repeat(
                partial(self._call, request, read_subusers), deadline=Deadline(), on_event=on_event
            )
            new = {found.username: found for found in page if found.username not in known}
            for subuser in new.values():
                yield subuser
            if is_last_page(page, new, largest):
                return
            known |= new.keys()
            offset, largest = offset + len(page), max(largest, len(page))

    async def repeat(
        self, ask: Callable[[], Awaitable[T]], *, deadline: Deadline, on_event: OnEvent
    ) -> T:
        """Return what `ask` returns, retried like a poll; it must change nothing at SendGrid.

        Raises:
            ExportTimeoutError: the deadline is reached.
            APIError, TransportError, InvalidResponseError: what can't get better, or the last
                of too many failures.
        """
        failures = 0
        while True:
            try:
                async with self._timeout(deadline):
                    return await ask()
            except TimeoutError:
                raise ExportTimeoutError(
                    "The timeout passed before SendGrid answered.", export_id=""
                ) from None
            except SendGridExportsError as error:
                failures += 1
                delay = self._delay_after(error, failures)
                if (
                    not is_transient(error)
                    or failures >= self.policy.max_failures
                    or delay >= deadline.left(self._clock.monotonic())
                ):
                    raise
                on_event(Retrying(export_id=None, reason=str(error), delay=delay))
            await self._clock.sleep(delay)

    def _delay_after(self, error: SendGridExportsError, failures: int) -> float:
        asked = error.retry_after if isinstance(error, APIError) else None
        return max(poll_delay(failures - 1, self.policy, self._random), asked or 0.0)

    async def scopes(self) -> tuple[str, ...]:
        """Return the permissions of the API key.

        Raises:
            APIError, TransportError, InvalidResponseError: as from SendGrid.
        """
        return await self._call(scopes_request(), read_scopes)

    async def wait(
        self,
        export_id: str,
        *,
        deadline: Deadline,
        on_event: OnEvent,
        known_ready: bool = False,
        max_failures: int | None = None,
    ) -> ContactExport:
        """Poll the status until the export is ready, and return it.

        Raises:
            ExportFailedError, ExportExpiredError: it will never be ready.
            ExportTimeoutError: the deadline is reached.
            APIError, TransportError, InvalidResponseError: what can't get better, or the last
                of too many failures.
        """
        policy = self.policy
        if max_failures is not None:
            policy = attrs.evolve(policy, max_failures=max_failures)
        polling = Polling(
            export_id=export_id,
            policy=policy,
            deadline=deadline,
            new_until=self._new.get(export_id, -math.inf),
            known_ready=known_ready or export_id in self._seen_ready,
        )
        while True:
            seen = await self._poll(polling)
            decision = decide(
                polling,
                seen,
                now=self._clock.monotonic(),
                utc=self.server_clock.utc(),
                random=self._random,
            )
            self._report(polling, seen, decision, on_event)
            match decision:
                case Done(export):
                    return export
                case PollAgain(delay, polling):
                    await self._clock.sleep(delay)
                case GiveUp(error) if error is seen:
                    raise error.with_advice(_RESUME) if is_transient(error) else error
                case GiveUp(error):
                    raise error from (seen if isinstance(seen, SendGridExportsError) else None)

    async def renew(
        self,
        export_id: str,
        *,
        deadline: Deadline,
        on_event: OnEvent,
        max_failures: int | None = None,
    ) -> ContactExport:
        """Return an export that was ready before, with fresh links.

        Raises:
            ExportNotReadyError: none came for as long as `PollPolicy.timeout`, or a minute.
            ExportTimeoutError, ExportExpiredError, APIError, TransportError,
            InvalidResponseError: as from `wait`.
        """
        seconds = max(self.policy.timeout, _SHORTEST_RENEWAL)
        bound = Deadline.after(seconds, self._clock.monotonic())
        try:
            return await self.wait(
                export_id,
                deadline=deadline.earlier(bound),
                on_event=on_event,
                known_ready=True,
                max_failures=max_failures,
            )
        except ExportTimeoutError as error:
            if deadline.at <= bound.at:
                raise
            raise ExportNotReadyError(
                f"SendGrid has given no fresh links within {seconds:.0f} s. {error} What is on "
                "disk is kept.",
                export_id=export_id,
                export=error.export,
            ) from None

    async def _poll(self, polling: Polling) -> ContactExport | SendGridExportsError:
        try:
            async with self._timeout(polling.deadline):
                return await self.get(polling.export_id)
        except SendGridExportsError as error:
            return error
        except TimeoutError:
            raise timed_out(polling, "the timeout passed") from polling.failure

    def _timeout(self, deadline: Deadline) -> AbstractAsyncContextManager[object]:
        left = deadline.left(self._clock.monotonic())
        return self._clock.timeout(left if math.isfinite(left) else None)

    def _report(
        self,
        polling: Polling,
        seen: ContactExport | SendGridExportsError,
        decision: Decision,
        on_event: OnEvent,
    ) -> None:
        delay = decision.delay if isinstance(decision, PollAgain) else None
        if isinstance(seen, ContactExport):
            self._note(polling, seen)
            on_event(StatusPolled(export_id=polling.export_id, export=seen, next_poll=delay))
        elif delay is not None:
            on_event(Retrying(export_id=polling.export_id, reason=str(seen), delay=delay))

    def _note(self, polling: Polling, seen: ContactExport) -> None:
        """Remember that an export was ready, and warn of a status that is not documented."""
        if seen.status is ExportStatus.READY:
            self._seen_ready[polling.export_id] = None
            if len(self._seen_ready) > _MOST_REMEMBERED:
                del self._seen_ready[next(iter(self._seen_ready))]
        before = polling.export.status_text if polling.export else None
        if seen.status_text not in {seen.status.value, before}:
            text = redact_text(seen.status_text)
            logger.warning(
                "Export %s has the unknown status %r, taken for pending.",
                polling.export_id,
                text,
                extra={"export_id": polling.export_id, "status": text},
            )

    async def _call(
        self,
        request: Request,
        read: Callable[[Response, Request, datetime], T],
        before: Callable[[], Awaitable[None]] | None = None,
    ) -> T:
        headers = dict(self._headers)
        if request.body is None:
            # A cache on the way, or in a borrowed session, must not answer a poll.
            headers["Cache-Control"] = "no-cache"
        else:
            headers["Content-Type"] = "application/json"
        async with self.turns.one(self._on_behalf_of):
            if before is not None:
                await before()
            response = await self._session.send(
                request.method,
                self._base_url + request.target,
                headers=headers,
                body=request.body,
                secret=self._api_key,
            )
        self.server_clock.hear(response.date)
        self.turns.answered(self._on_behalf_of, response, self.server_clock)
        logger.debug(
            "%s %s: %d",
            *(request.method, request.target, response.status),
            extra={
                "method": request.method,
                "target": request.target,
                "http_status": response.status,
            },
        )
        try:
            return read(response, request, self.server_clock.utc())
        except PermissionDeniedError as error:
            if self._on_behalf_of is None:
                raise
            raise error.with_advice(
                f"The request was on behalf of {self._on_behalf_of}, which may be disabled, or "
                "not an account that this API key may act for."
            ) from None
