"""The turns of all requests that are sent with one API key, whichever client sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sendgrid_exports.api.rates import Rate, is_of_account, read_rate
from sendgrid_exports.http import Response
from sendgrid_exports.timing import Clock, ServerClock

__all__ = ["Turns"]

_MOST_AT_ONCE = 16
_MANY = 128


class Turns:
    """Lets requests with one key wait while SendGrid would refuse them.

    At most 16 are under way at once: so many connections of the API are open, and so many can be
    refused before the limit is known.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way = asyncio.Semaphore(_MOST_AT_ONCE)
        self._key = Rate()
        self._accounts: dict[str, Rate] = {}

    @asynccontextmanager
    async def one(self, account: str | None) -> AsyncIterator[None]:
        """Wait until a request on behalf of `account` may be sent, and count it."""
        while True:
            while seconds := self._seconds_to_wait(account):
                await self._clock.sleep(seconds)
            async with self._under_way:
                if not self._seconds_to_wait(account):
                    self._count(account)
                    yield
                    return

    def answered(self, account: str | None, response: Response, server_clock: ServerClock) -> None:
        """Note what an answer says of the limits."""
        stated = read_rate(
            response.status,
            response.headers,
            now=self._clock.monotonic(),
            utc=server_clock.utc(),
        )
        rate = self._accounts.get(account) if account is not None else None
        if stated is None:
            if account is not None:
                self._accounts.pop(account, None)
        elif account is not None and rate is not None and is_of_account(stated, rate, self._key):
            self._accounts[account] = rate.after_answer(stated)
        else:
            self._key = self._key.after_answer(stated)

    def _seconds_to_wait(self, account: str | None) -> float:
        now = self._clock.monotonic()
        own = self._accounts.get(account, Rate()) if account is not None else Rate()
        return max(self._key.seconds_to_wait(now), own.seconds_to_wait(now))

    def _count(self, account: str | None) -> None:
        now = self._clock.monotonic()
        self._key = self._key.after_request(now)
        if account is None:
            return
        self._accounts[account] = self._accounts.get(account, Rate()).after_request(now)
        if len(self._accounts) > _MANY:
            self._accounts = {
                name: rate for name, rate in self._accounts.items() if now < rate.ends
            }
