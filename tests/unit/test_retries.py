"""What follows a failure, and when nothing is left to try."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.errors import (
    CorruptDownloadError,
    DownloadError,
    ExportExpiredError,
    IncompleteDownloadError,
)
from sendgrid_exports.transfer.answers import (
    LinkDead,
    Refused,
    StartOver,
    TryAgain,
)
from sendgrid_exports.transfer.checks import CheckFailedError
from sendgrid_exports.transfer.retries import (
    Again,
    Failure,
    GiveUp,
    Renew,
    Step,
    Tries,
    error_of,
    next_step,
)

EXPIRED = LinkDead("Request has expired", expired=True)
DENIED = LinkDead("AccessDenied", expired=False)
MISSING = LinkDead("NoSuchKey", expired=False, status=404, code="NoSuchKey")
BROKEN = CheckFailedError("it is an HTML page", "Open the network.")


def step_after(
    meaning: Failure,
    tries: Tries | None = None,
    *,
    failures: int = 1,
    attempts: int = 8,
    left: float = math.inf,
    random: float = 0.0,
) -> tuple[Step, Tries]:
    return next_step(
        meaning,
        tries or Tries(),
        failures=failures,
        attempts=attempts,
        left=left,
        random=lambda: random,
    )


def steps(*meanings: Failure) -> list[str]:
    """The names of the steps after one meaning after another, without progress."""
    tries = Tries()
    names = []
    for failures, meaning in enumerate(meanings, start=1):
        step, tries = step_after(meaning, tries, failures=failures)
        names.append(type(step).__name__)
    return names


@pytest.mark.parametrize(
    ("failures", "retry_after", "left", "delay"),
    [
        pytest.param(1, None, math.inf, 0.5, id="first"),
        pytest.param(2, None, math.inf, 1, id="second"),
        pytest.param(3, None, math.inf, 2, id="third"),
        pytest.param(5, None, math.inf, 8, id="fifth"),
        pytest.param(6, None, math.inf, 10, id="at most ten seconds"),
        pytest.param(1023, None, math.inf, 10, id="no overflow"),
        pytest.param(0, None, math.inf, 0.5, id="after progress"),
        pytest.param(1, 7.0, math.inf, 7, id="as the storage asks"),
        pytest.param(1, 90.0, math.inf, 90, id="as long as the storage asks"),
        pytest.param(5, 1.0, math.inf, 8, id="never sooner than our own delay"),
        pytest.param(1, 0.0, math.inf, 0.5, id="the storage asks for nothing"),
        pytest.param(6, None, 3.0, 3, id="clipped to the deadline"),
        pytest.param(6, 2.0, 3.0, 3, id="clipped to the deadline though asked for less"),
        pytest.param(1, None, 0.0, 0, id="no time left"),
    ],
)
def test_delays(failures: int, retry_after: float | None, left: float, delay: float) -> None:
    meaning = TryAgain("503", retry_after)
    step, tries = step_after(meaning, failures=failures, attempts=10**6, left=left)
    assert isinstance(step, Again)
    assert step.delay == pytest.approx(delay)
    assert tries == Tries()


@pytest.mark.parametrize(("random", "delay"), [(0.0, 2.0), (0.5, 1.9), (1.0, 1.8)])
def test_jitter_takes_a_tenth_at_most(random: float, delay: float) -> None:
    step, _ = step_after(TryAgain("reset"), failures=3, random=random)
    assert isinstance(step, Again)
    assert step.delay == pytest.approx(delay)


@pytest.mark.parametrize(
    ("failures", "attempts", "given_up"),
    [(1, 8, False), (7, 8, False), (8, 8, True), (9, 8, True), (1, 1, True)],
)
def test_attempts_are_tries_without_progress(failures: int, attempts: int, given_up: bool) -> None:
    step, tries = step_after(TryAgain("reset"), failures=failures, attempts=attempts)
    assert tries == Tries()
    if given_up:
        assert step == GiveUp("incomplete", f"reset ({failures} tries without progress)")
    else:
        assert isinstance(step, Again)
        assert step.reason == "reset"


@pytest.mark.parametrize("left", [60.0, 119.9, 120.0])
def test_a_retry_after_beyond_the_deadline_fails_now_with_the_number(left: float) -> None:
    step, _ = step_after(TryAgain("503 SlowDown", 120.0), left=left)
    assert isinstance(step, GiveUp)
    assert step.kind == "incomplete"
    assert step.reason.startswith("503 SlowDown")
    assert "120 s" in step.reason


@pytest.mark.parametrize(
    ("meanings", "expected"),
    [
        pytest.param([EXPIRED] * 4, ["Renew"] * 3 + ["GiveUp"], id="three renewals in a row"),
        pytest.param(
            [DENIED] * 8, ["Renew"] + ["Again"] * 6 + ["GiveUp"], id="denied in every attempt"
        ),
        pytest.param(
            [MISSING] * 8, ["Renew"] + ["Again"] * 6 + ["GiveUp"], id="missing in every attempt"
        ),
        pytest.param(
            [EXPIRED, DENIED, DENIED], ["Renew", "Renew", "Again"], id="aged, then denied"
        ),
        pytest.param([DENIED, EXPIRED, MISSING], ["Renew", "Renew", "Again"], id="denied, aged"),
        pytest.param([StartOver("x")] * 4, ["StartOver"] * 3 + ["GiveUp"], id="three start-overs"),
        pytest.param(
            [StartOver("x", plain=True), EXPIRED, StartOver("x")],
            ["StartOver", "Renew", "StartOver"],
            id="mix",
        ),
        pytest.param([BROKEN] * 2, ["StartOver", "GiveUp"], id="downloaded once more"),
        pytest.param([Refused(reason="403")], ["GiveUp"], id="refused"),
    ],
)
def test_budgets(meanings: list[Failure], expected: list[str]) -> None:
    assert steps(*meanings) == expected


@pytest.mark.parametrize("meaning", [DENIED, MISSING], ids=["denied", "missing"])
def test_a_refusal_that_age_does_not_explain_is_tried_again_after_backoff(
    meaning: LinkDead,
) -> None:
    tries = Tries()
    delays = []
    for failures in range(1, 8):
        step, tries = step_after(meaning, tries, failures=failures)
        delays.append(step.delay if isinstance(step, Again) else 0.0)
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]
    assert step_after(meaning, tries, failures=2, left=3.0)[0] == Again(3.0, meaning.reason)


@pytest.mark.parametrize(
    ("meaning", "kind"), [(DENIED, "refused"), (MISSING, "expired")], ids=["denied", "missing"]
)
def test_a_refusal_that_stays_has_its_error(meaning: LinkDead, kind: str) -> None:
    step, _ = step_after(meaning, failures=3, attempts=3)
    assert isinstance(step, GiveUp)
    assert (step.kind, step.status, step.code) == (kind, meaning.status, meaning.code)
    assert step.reason == f"{meaning.reason} (3 tries without progress)"


def test_progress_renews_the_budget_of_renewals_but_not_that_of_start_overs() -> None:
    worn = Tries(starts_over=3, renewals=3, denials=1)
    assert isinstance(step_after(EXPIRED, worn)[0], GiveUp)
    rested = worn.after_progress()
    assert rested == Tries(starts_over=3)
    assert step_after(EXPIRED, rested) == (Renew(), Tries(starts_over=3, renewals=1))
    assert step_after(DENIED, rested) == (Renew(), Tries(starts_over=3, renewals=1, denials=1))
    assert isinstance(step_after(StartOver("x"), rested)[0], GiveUp)


def test_a_failed_check_counts_apart_from_other_reasons_to_start_over() -> None:
    worn = Tries(starts_over=3, renewals=3)
    step, tries = step_after(BROKEN, worn)
    assert step == StartOver("it fails its checks: it is an HTML page")
    assert tries == Tries(starts_over=3, renewals=3, failed_checks=1)
    assert step_after(BROKEN, tries.after_progress())[0] == GiveUp(
        "corrupt", "it is an HTML page", "Open the network."
    )


@pytest.mark.parametrize(
    ("meaning", "step"),
    [
        (StartOver("changed"), StartOver("changed")),
        (StartOver("no ranges", plain=True), StartOver("no ranges", plain=True)),
        (
            Refused(reason="no", status=400, code="Bad", advice="Do."),
            GiveUp("refused", "no", "Do.", 400, "Bad"),
        ),
    ],
)
def test_steps_keep_what_was_said(meaning: Failure, step: Step) -> None:
    assert step_after(meaning)[0] == step


@pytest.mark.parametrize(
    ("meaning", "tries"),
    [
        (StartOver("why"), Tries(starts_over=3)),
        (LinkDead("why", expired=True), Tries(renewals=3)),
        (LinkDead("why", expired=False), Tries(renewals=3, denials=1)),
    ],
)
def test_a_used_up_budget_says_why(meaning: Failure, tries: Tries) -> None:
    step, after = step_after(meaning, tries)
    assert isinstance(step, GiveUp)
    assert step.kind == "refused"
    assert step.reason.startswith("why; ")
    assert after == tries


@pytest.mark.parametrize(
    ("given_up", "error", "said"),
    [
        (
            GiveUp("expired", "404 NoSuchKey"),
            ExportExpiredError,
            "is deleted (404 NoSuchKey). Start another export.",
        ),
        (
            GiveUp("incomplete", "500"),
            IncompleteDownloadError,
            "did not arrive: 500. Fetch again with the same id.",
        ),
        (
            GiveUp("incomplete", "Too many files."),
            IncompleteDownloadError,
            "did not arrive: Too many files. Fetch again",
        ),
        (
            GiveUp("refused", "405"),
            DownloadError,
            ": 405. Fetch again with the same id; if that fails too, start another export.",
        ),
        (
            GiveUp("refused", "302", "Check the proxies."),
            DownloadError,
            ": 302. Check the proxies.",
        ),
        (
            GiveUp("corrupt", "it is a page", "Open the network."),
            CorruptDownloadError,
            "downloaded twice, and it fails its checks: it is a page. Open the network.",
        ),
    ],
    ids=repr,
)
def test_the_error_says_what_was_seen_and_what_to_do(
    given_up: GiveUp, error: type[Exception], said: str
) -> None:
    made = error_of(
        given_up, name="x.csv", path=Path("x.csv"), url="https://h/p", export_id="id", export=None
    )
    assert type(made) is error
    assert said in str(made)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([EXPIRED, DENIED, MISSING, StartOver("x"), BROKEN]), min_size=9))
def test_nothing_but_progress_keeps_a_file_going(meanings: list[Failure]) -> None:
    assert "GiveUp" in steps(*meanings)
