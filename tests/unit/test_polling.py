"""Polling: when to poll again, when it is done, when to give up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from sendgrid_exports.errors import (
    APIError,
    AuthenticationError,
    DownloadError,
    ExportExpiredError,
    ExportFailedError,
    ExportNotFoundError,
    ExportTimeoutError,
    InvalidRequestError,
    InvalidResponseError,
    PermissionDeniedError,
    RateLimitedError,
    SendGridExportsError,
    ServerError,
    TransportError,
)
from sendgrid_exports.models import ContactExport, ExportStatus
from sendgrid_exports.settings import PollPolicy
from sendgrid_exports.timing import Deadline

UTC_NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
START = 1000.0
PENDING = ContactExport(id="abc", status=ExportStatus.PENDING, status_text="pending")
READY = ContactExport(
    id="abc", status=ExportStatus.READY, status_text="ready", urls=("https://h/p?s3cr3t",)
)
EMPTY = attrs.evolve(READY, urls=(), contact_count=5, expires_at=UTC_NOW + timedelta(seconds=100))
FAILED = attrs.evolve(PENDING, status=ExportStatus.FAILURE, status_text="failure")
UNKNOWN = attrs.evolve(PENDING, status_text="brewing")

BUSY = ServerError("busy", status=503)
LIMITED = RateLimitedError("slow down", status=429)
LOST = TransportError("reset")
STRANGE = InvalidResponseError("null")
TRANSIENT: list[SendGridExportsError] = [BUSY, LIMITED, LOST, STRANGE]
quick = settings(derandomize=True, max_examples=100, deadline=None)


def limited(seconds: float) -> RateLimitedError:
    return RateLimitedError("slow down", status=429, retry_after=seconds)


def watch(
    script: Sequence[ContactExport | SendGridExportsError],
    *,
    policy: PollPolicy | None = None,
    timeout: float | None = 3600.0,
    random: Callable[[], float] = lambda: 0.0,
    known_ready: bool = False,
    poll_takes: float = 0.0,
    new_for: float = 0.0,
) -> tuple[list[float], Decision]:
    """Poll as `decide` says; return its delays, and its last decision."""
    now, delays = START, []
    polling = Polling(
        export_id="abc",
        policy=policy or PollPolicy(),
        deadline=Deadline.after(timeout, now),
        new_until=now + new_for,
        known_ready=known_ready,
    )
    decision: Decision | None = None
    for seen in script:
        if decision is not None:
            assert isinstance(decision, PollAgain)
            now += decision.delay
            delays.append(decision.delay)
            polling = decision.polling
        now += poll_takes
        utc = UTC_NOW + timedelta(seconds=now - START)
        decision = decide(polling, seen, now=now, utc=utc, random=random)
        assert now <= polling.deadline.at + poll_takes
    assert decision is not None
    return delays, decision


def gives_up(decision: Decision) -> Any:
    assert isinstance(decision, GiveUp)
    return decision.error


@pytest.mark.parametrize(
    ("random", "share"), [(lambda: 0.0, 1.0), (lambda: 1 - 1e-12, 0.9)], ids=["least", "most"]
)
def test_a_failed_poll_takes_the_next_slot_like_any_other(
    random: Callable[[], float], share: float
) -> None:
    delays, decision = watch([PENDING, LIMITED, BUSY, UNKNOWN, STRANGE, LOST, READY], random=random)
    slots = [1, 1.5, 2.25, 3.375, 5.0625, 7.59375]
    assert delays == pytest.approx([slot * share for slot in slots])
    assert decision == Done(READY)


def test_retry_after_is_obeyed_unless_the_slot_is_later() -> None:
    delays, decision = watch([limited(20), limited(0.5), PENDING, limited(45), READY])
    assert delays == [20, 1.5, 2.25, 45]
    assert decision == Done(READY)


@pytest.mark.parametrize(
    ("script", "delays"),
    [
        ([READY], []),
        ([attrs.evolve(EMPTY, contact_count=0)], []),
        ([attrs.evolve(READY, contact_count=0)], []),
        ([attrs.evolve(READY, expires_at=UTC_NOW - timedelta(days=1))], []),
        ([EMPTY, READY], [1]),
        ([attrs.evolve(EMPTY, contact_count=None), READY], [1]),
        ([attrs.evolve(EMPTY, expires_at=None), READY], [1]),
    ],
    ids=["ready", "of nobody", "empty", "old", "no urls", "no count", "no expiry"],
)
def test_ready_with_links_or_without_contacts_is_done(
    script: list[ContactExport], delays: list[float]
) -> None:
    assert watch(script) == (delays, Done(script[-1]))


def test_ready_without_urls_is_polled_until_it_expires() -> None:
    delays, decision = watch([EMPTY] * 11)
    assert sum(delays[:-1]) < 100 <= sum(delays)
    error = gives_up(decision)
    assert type(error) is ExportExpiredError
    assert (error.export_id, error.export) == ("abc", EMPTY)


@pytest.mark.parametrize("message", [None, "the list was deleted"])
def test_the_status_failure_ends_the_wait(message: str | None) -> None:
    failed = attrs.evolve(FAILED, message=message)
    error = gives_up(watch([PENDING, failed])[1])
    assert type(error) is ExportFailedError
    assert (message or "no reason given") in str(error)
    assert (error.export_id, error.export) == ("abc", failed)


@pytest.mark.parametrize(
    "message", ["at https://h/p?X-Amz-Signature=s3cr3t", "x\n" * 500 + "s3cr3t"]
)
def test_the_reason_of_a_failure_shows_no_secret_and_is_cut(message: str) -> None:
    error = gives_up(watch([attrs.evolve(FAILED, message=message)])[1])
    assert "s3cr3t" not in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("bad", status=400),
        AuthenticationError("key", status=401),
        PermissionDeniedError("scope", status=403),
        ExportNotFoundError("id", status=404),
        APIError("moved", status=301),
        TransportError("certificate", transient=False),
    ],
    ids=str,
)
def test_permanent_errors_end_the_wait_at_once(error: SendGridExportsError) -> None:
    assert gives_up(watch([error])[1]) is error
    seen = [] if isinstance(error, AuthenticationError) else [PENDING]
    assert gives_up(watch([*seen, LIMITED, error])[1]) is error


def test_a_401_is_forgiven_once_after_the_key_was_accepted() -> None:
    refused = AuthenticationError("key", status=401)
    assert watch([PENDING, refused, READY])[1] == Done(READY)
    assert watch([PENDING, refused, PENDING, refused, READY])[1] == Done(READY)
    assert gives_up(watch([PENDING, refused, refused])[1]) is refused
    assert gives_up(watch([PENDING, refused, BUSY, refused])[1]) is refused
    policy = PollPolicy(max_failures=1)
    assert gives_up(watch([PENDING, refused], policy=policy)[1]) is refused


def test_an_export_that_is_new_may_be_unknown() -> None:
    missing = ExportNotFoundError("id", status=404)
    assert watch([missing, missing, READY], new_for=60)[1] == Done(READY)
    assert gives_up(watch([missing, missing], new_for=1)[1]) is missing
    assert type(gives_up(watch([EMPTY, missing], new_for=60)[1])) is ExportExpiredError


@pytest.mark.parametrize("script", [[], [PENDING], [BUSY]], ids=["first", "pending", "busy"])
def test_404_for_an_export_known_to_be_ready_means_expired(script: list[Any]) -> None:
    missing = ExportNotFoundError("id", status=404)
    error = gives_up(watch([*script, missing], known_ready=True)[1])
    assert type(error) is ExportExpiredError
    assert error.export_id == "abc"


def test_404_after_ready_means_expired() -> None:
    missing = ExportNotFoundError("id", status=404)
    assert type(gives_up(watch([PENDING, EMPTY, missing])[1])) is ExportExpiredError


@pytest.mark.parametrize("error", TRANSIENT, ids=str)
@pytest.mark.parametrize("most", [1, 2, 10])
def test_too_many_failures_in_a_row_end_the_wait_with_the_last_error(
    error: SendGridExportsError, most: int
) -> None:
    policy = PollPolicy(max_failures=most)
    script = [LOST] * (most - 1)
    assert gives_up(watch([PENDING, *script, error], policy=policy)[1]) is error
    assert watch([*script, PENDING, *script, READY], policy=policy)[1] == Done(READY)


def test_the_last_failure_counts_even_if_its_retry_after_is_too_long() -> None:
    error = limited(9999)
    assert gives_up(watch([error], policy=PollPolicy(max_failures=1))[1]) is error


@pytest.mark.parametrize("asked", [60, 61, 7200])
def test_retry_after_beyond_the_deadline_fails_at_once_with_the_number(asked: float) -> None:
    error = gives_up(watch([PENDING, limited(asked)], timeout=61)[1])
    assert type(error) is ExportTimeoutError
    assert f"asks to wait {asked} s, and 60 s are left" in str(error)
    assert (error.export_id, error.export) == ("abc", PENDING)


def test_retry_after_just_before_the_deadline_is_obeyed() -> None:
    delays, decision = watch([limited(59.5), PENDING], timeout=60)
    assert delays == [59.5]
    assert isinstance(decision, PollAgain)


@pytest.mark.parametrize(
    ("timeout", "delays"),
    [
        (0, []),
        (0.5, [0.45]),
        (1, [0.9]),
        (2, [1, 0.9]),
        (10, [1, 1.5, 2.25, 3.375, 1.6875]),
        (60, [1, 1.5, 2.25, 3.375, 5.0625, 7.59375, 11.390625, 17.0859375, 9.7421875]),
    ],
)
def test_the_last_poll_is_just_before_the_deadline(timeout: float, delays: list[float]) -> None:
    found, decision = watch([PENDING] * (len(delays) + 1), timeout=timeout)
    assert found == pytest.approx(delays)
    assert sum(found) <= timeout
    error = gives_up(decision)
    assert type(error) is ExportTimeoutError
    assert "abc" in str(error)
    assert "its last status: pending" in str(error)
    assert error.export is PENDING
    assert watch([PENDING] * len(delays) + [READY], timeout=timeout)[1] == Done(READY)


def test_retry_after_is_obeyed_before_the_last_poll_too() -> None:
    policy = PollPolicy(initial=30)
    delays, decision = watch([limited(9.5), PENDING], policy=policy, timeout=10)
    assert delays == [9.5]
    assert type(gives_up(decision)) is ExportTimeoutError


@pytest.mark.parametrize("seen", [PENDING, BUSY, limited(5)], ids=["pending", "busy", "limited"])
def test_a_poll_that_ends_past_the_deadline_is_the_last(seen: Any) -> None:
    delays, decision = watch([seen], timeout=10, poll_takes=10.5)
    assert delays == []
    assert type(gives_up(decision)) is ExportTimeoutError


def test_ready_past_the_deadline_is_still_done() -> None:
    assert watch([READY], timeout=10, poll_takes=10.5)[1] == Done(READY)


def test_a_timeout_says_why_the_last_poll_failed() -> None:
    error = gives_up(watch([PENDING, BUSY, BUSY], timeout=1.5)[1])
    assert "its last status: pending. The last poll failed: busy. " in str(error)
    assert "failed" not in str(gives_up(watch([BUSY, PENDING, PENDING], timeout=1.5)[1]))


def test_an_export_never_seen_says_so() -> None:
    error = gives_up(watch([BUSY], timeout=0)[1])
    assert "its last status: never seen" in str(error)
    assert error.export is None
    unknown = timed_out(Polling(export_id="abc", export=UNKNOWN), "it is late")
    assert "it is late; its last status: brewing" in str(unknown)


def test_no_deadline_is_never_reached() -> None:
    delays, decision = watch([limited(1e6), *[PENDING] * 200, READY], timeout=None)
    assert delays[0] == 1e6
    assert max(delays[1:]) == delays[-1] == 30
    assert decision == Done(READY)


def simulate(ready_at: float, random: Callable[[], float]) -> list[float]:
    """Return the instants of the polls of a job of an hour that is ready at `ready_at`."""
    polling = Polling(export_id="abc", deadline=Deadline(3600))
    polls = [0.0]
    while True:
        seen = READY if polls[-1] >= ready_at else PENDING
        decision = decide(polling, seen, now=polls[-1], utc=UTC_NOW, random=random)
        if not isinstance(decision, PollAgain):
            assert isinstance(decision, Done) is (seen is READY)
            return polls
        polling = decision.polling
        polls.append(polls[-1] + decision.delay)


@quick
@given(ready_at=st.floats(0, 3599), seed=st.integers(0, 2**32))
def test_a_long_job_is_found_soon_with_few_polls(ready_at: float, seed: int) -> None:
    polls = simulate(ready_at, Random(seed).random)
    assert len(polls) < 140
    assert 0 <= polls[-1] - ready_at <= 31
    gaps = [later - earlier for earlier, later in pairwise(polls)]
    assert min(gaps[:-1], default=1) >= 0.9
    assert max(gaps, default=0) <= 30


@pytest.mark.parametrize("random", [lambda: 0.0, lambda: 1 - 1e-12], ids=["least", "most"])
def test_a_job_that_never_ends_is_given_up_in_time(random: Callable[[], float]) -> None:
    polls = simulate(float("inf"), random)
    assert 3599 <= polls[-1] <= 3600
    assert len(polls) < 145


@quick
@given(
    script=st.lists(
        st.sampled_from([PENDING, EMPTY, UNKNOWN, *TRANSIENT, limited(7)]), max_size=60
    ),
    timeout=st.floats(0, 200),
    random=st.floats(0, 1, exclude_max=True),
)
def test_no_delay_reaches_the_deadline(script: list[Any], timeout: float, random: float) -> None:
    now, polling = 0.0, Polling(export_id="abc", deadline=Deadline(timeout))
    for seen in script:
        decision = decide(polling, seen, now=now, utc=UTC_NOW, random=lambda: random)
        if not isinstance(decision, PollAgain):
            assert isinstance(decision, GiveUp)
            break
        assert decision.delay > 0
        now, polling = now + decision.delay, decision.polling
        assert now <= timeout


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LOST, (True, False)),
        (TransportError("dns", request_sent=False), (True, True)),
        (TransportError("tls", request_sent=False, transient=False), (False, False)),
        (LIMITED, (True, True)),
        (BUSY, (True, False)),
        (APIError("m", status=200), (False, False)),
        (APIError("m", status=408), (True, False)),
        (APIError("m", status=425), (True, False)),
        (STRANGE, (True, False)),
        (AuthenticationError("m", status=401), (False, False)),
        (ExportNotFoundError("m", status=404), (False, False)),
        (APIError("m", status=302), (False, False)),
        (DownloadError("m"), (False, False)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_transient_errors_and_requests_certainly_not_processed(
    error: SendGridExportsError, expected: tuple[bool, bool]
) -> None:
    assert (is_transient(error), certainly_not_processed(error)) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LOST, True),
        (BUSY, True),
        (STRANGE, True),
        (APIError("m", status=200), True),
        (ExportTimeoutError("m", export_id=""), True),
        (TransportError("dns", request_sent=False), False),
        (LIMITED, False),
        (InvalidRequestError("m", status=400), False),
    ],
    ids=str,
)
def test_what_may_have_started_an_export(error: SendGridExportsError, expected: bool) -> None:
    assert may_have_started(error) is expected
