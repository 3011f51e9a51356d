"""Presigned urls: what they are, when they die, which file a fresh one belongs to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sendgrid_exports.errors import InvalidResponseError
from sendgrid_exports.transfer.links import (
    Link,
    is_due,
    match_links,
    read_link,
    read_links,
    remember_links,
)

SIGNED = datetime(2025, 7, 18, 19, 53, 35, tzinfo=UTC)
PLACE = "https://bucket.s3.us-west-2.amazonaws.com/0f1e2d3c.csv.gzip"
V4 = (
    "?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=ASIA%2F20250718%2Fus-west-2%2Fs3"
    "&X-Amz-Date=20250718T195335Z&X-Amz-Expires={lifetime}&X-Amz-Security-Token=t%2Bo%3D"
    "&X-Amz-SignedHeaders=host&X-Amz-Signature=5ec2e7"
)
V2 = "?AWSAccessKeyId=AKIA&Signature=s3%2B&Expires={expires}"


def link_to(place: str, query: str = "", *, now: float = 0.0) -> Link:
    return read_link(f"{place}{query}", allow_http=False, now=now)


def test_a_link_is_kept_byte_for_byte_and_known_by_its_place() -> None:
    url = PLACE + V4.format(lifetime=300)
    link = read_link(url, allow_http=False, now=7.5)
    assert (link.url, link.identity, link.kind, link.obtained) == (url, PLACE, "csv", 7.5)
    assert "5ec2e7" not in repr(link)
    assert "X-Amz" not in repr(link)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.csv", "csv"),
        ("x.csv.gzip", "csv"),
        ("x.json.gzip", "json"),
        ("x.json", "json"),
        ("X.JSON.GZ", "json"),
        ("x.ndjson.gz", "json"),
        ("x.gzip", "csv"),
        ("x", "csv"),
        ("json", "csv"),
        (".json/x.csv", "csv"),
    ],
)
def test_kind_is_told_by_the_suffix(name: str, kind: str) -> None:
    assert link_to(f"https://h/{name}", "?as=x.json").kind == kind


@pytest.mark.parametrize(
    ("query", "lifetime", "dies_after"),
    [
        pytest.param(V4.format(lifetime=300), 300, 300, id="v4"),
        pytest.param(V4.format(lifetime=604800), 604800, 604800, id="v4 for a week"),
        pytest.param(V2.format(expires=int(SIGNED.timestamp()) + 60), None, 60, id="v2"),
        pytest.param("", None, None, id="no query"),
        pytest.param("?token=abc", None, None, id="another signer"),
        pytest.param("?X-Amz-Expires=300", None, None, id="v4 without a date"),
        pytest.param("?X-Amz-Expires=300&X-Amz-Date=today", None, None, id="v4, no date"),
        pytest.param(V4.format(lifetime="soon"), None, None, id="v4, no number"),
        pytest.param(V4.format(lifetime="nan"), None, None, id="v4, nan"),
        pytest.param(V4.format(lifetime="1e300"), None, None, id="v4, beyond all time"),
        pytest.param(V4.format(lifetime="9" * 12), None, None, id="v4, beyond the year 9999"),
        pytest.param(V2.format(expires="never"), None, None, id="v2, no number"),
        pytest.param(V2.format(expires="9" * 30), None, None, id="v2, beyond all time"),
    ],
)
def test_lifetime(query: str, lifetime: float | None, dies_after: float | None) -> None:
    link = link_to(PLACE, query)
    assert link.lifetime == lifetime
    dies_at = None if dies_after is None else SIGNED + timedelta(seconds=dies_after)
    assert link.dies_at == dies_at


@pytest.mark.parametrize(
    ("query", "after", "held", "due"),
    [
        pytest.param(V4.format(lifetime=300), 270, 270, False, id="30 s of 300 s are a tenth"),
        pytest.param(V4.format(lifetime=300), 271, 271, True, id="less than a tenth"),
        pytest.param(V4.format(lifetime=300), 999, 999, True, id="long dead"),
        pytest.param(V4.format(lifetime=100), 90, 90, False, id="10 s of 100 s"),
        pytest.param(V4.format(lifetime=100), 91, 91, True, id="less than 10 s of 100 s"),
        pytest.param(V4.format(lifetime=43200), 43170, 43170, False, id="30 s at most"),
        pytest.param(V4.format(lifetime=43200), 43171, 43171, True, id="less than 30 s"),
        pytest.param(V2.format(expires=int(SIGNED.timestamp())), -31, 60, False, id="v2"),
        pytest.param(V2.format(expires=int(SIGNED.timestamp())), -29, 60, True, id="v2, due"),
        pytest.param(V4.format(lifetime=300), 290, 1, False, id="just obtained, nearly dead"),
        pytest.param(V4.format(lifetime=300), 9999, 30, False, id="just obtained, dead"),
        pytest.param(V4.format(lifetime=300), -9999, 100, False, id="signed in the future"),
        pytest.param("", 10**9, 10**9, False, id="says nothing"),
    ],
)
def test_is_due(query: str, after: float, held: float, due: bool) -> None:
    """`after` seconds of the server's time since the signing, `held` of ours since it came."""
    link = link_to(PLACE, query, now=50.0)
    assert is_due(link, utc=SIGNED + timedelta(seconds=after), now=50.0 + held) is due


@pytest.mark.parametrize("lifetime", [0, -300])
def test_a_link_just_obtained_is_tried_whatever_its_lifetime(lifetime: int) -> None:
    link = link_to(PLACE, V4.format(lifetime=lifetime), now=50.0)
    assert not is_due(link, utc=SIGNED + timedelta(seconds=5), now=50.01)


@pytest.mark.parametrize("allow_http", [True, False])
@pytest.mark.parametrize(
    "url",
    [
        "ftp://h/s3cret",
        "file:///etc/s3cret",
        "javascript:s3cret",
        "s3cret",
        "//h/x?sig=s3cret",
        "",
        "https://",
        "https:///x?sig=s3cret",
        "https://user:s3cret@h/x",
        "https://s3cret@h/x",
        "https://@h/x?sig=s3cret",
        "https://h:0x50/x?sig=s3cret",
        "https://h:99999/x?sig=s3cret",
        "https://[::1/x?sig=s3cret",
        "https://h/x?sig=s3cret\r\nX-Evil: 1",
        "https://h/\tx?sig=s3cret",
        "https://h/x?sig=s3cret\x00",
        "https://h/x y?sig=s3cret",
        "https://h\\evil/x?sig=s3cret",
        " https://h/x?sig=s3cret",
        "https://h/x?sig=s3cret\u202e",
    ],
)
def test_any_other_url_is_refused_without_a_secret(url: str, allow_http: bool) -> None:
    with pytest.raises(ValueError, match=r"^expected a url ") as caught:
        read_link(url, allow_http=allow_http, now=0.0)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_http_only_where_it_is_allowed() -> None:
    url = "http://127.0.0.1:8080/x.csv?sig=s3cret"
    assert read_link(url, allow_http=True, now=0.0).identity == "http://127.0.0.1:8080/x.csv"
    with pytest.raises(ValueError, match=r"https://$"):
        read_link(url, allow_http=False, now=0.0)


def test_links_of_an_export_keep_their_order() -> None:
    urls = [f"https://h/{name}?sig={name}" for name in "bca"]
    assert [link.url for link in read_links(urls, allow_http=False, now=0.0)] == urls
    assert read_links([], allow_http=False, now=0.0) == ()


def test_every_bad_link_is_named_by_its_place() -> None:
    urls = ["https://h/a", "ftp://h/s3cret", "https://h/b", "https://u:s3cret@h/c"]
    with pytest.raises(InvalidResponseError) as caught:
        read_links(urls, allow_http=False, now=0.0)
    assert [problem.rpartition(" @ ")[2] for problem in caught.value.problems] == [
        "$.urls[1]",
        "$.urls[3]",
    ]
    assert "s3cret" not in str(caught.value)


# Files are single letters here, fresh links letters with the place they stand at.
MATCHES = [
    pytest.param("ab", "ab", [0, 1], id="same order"),
    pytest.param("abc", "cab", [1, 2, 0], id="another order"),
    pytest.param("ab", "cbad", [2, 1], id="more"),
    pytest.param("abc", "ca", [1, None, 0], id="fewer"),
    pytest.param("ab", "", [None, None], id="none"),
    pytest.param("", "ab", [], id="nothing known"),
    pytest.param("abc", "axc", [0, 1, 2], id="one renamed: by position"),
    pytest.param("ab", "xy", [0, 1], id="all renamed: by position"),
    pytest.param("ab", "xyz", [None, None], id="all renamed, and more: no match"),
    pytest.param("abc", "xy", [None, None, None], id="all renamed, and fewer: no match"),
    pytest.param("aa", "aa", [0, 1], id="a path twice"),
    pytest.param("aab", "baa", [1, 2, 0], id="a path twice, another order"),
    pytest.param("ab", "bx", [None, 0], id="never one link for two files"),
]


def links_to(names: str) -> list[Link]:
    return [link_to(f"https://h/{name}", f"?sig={n}") for n, name in enumerate(names)]


@pytest.mark.parametrize(("known", "fresh", "expected"), MATCHES)
def test_match_links(known: str, fresh: str, expected: list[int | None]) -> None:
    links = links_to(fresh)
    matched = match_links([f"https://h/{name}" for name in known], links)
    assert [None if link is None else links.index(link) for link in matched] == expected


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.permutations("abcdefg"))
def test_every_order_of_renewed_links_finds_its_files(order: list[str]) -> None:
    known = [f"https://h/{name}" for name in "abcdefg"]
    matched = match_links(known, links_to("".join(order)))
    assert [link and link.identity for link in matched] == known


@pytest.mark.parametrize(
    ("known", "fresh", "expected"),
    [
        ("", "ba", "ba"),
        ("ba", "ab", "ba"),
        ("ab", "cab", "abc"),
        ("ab", "a", "ab"),
        ("ab", "", "ab"),
        ("ab", "xy", "ab"),
        ("", "aa", "aa"),
    ],
)
def test_files_keep_their_numbers_and_new_ones_follow(
    known: str, fresh: str, expected: str
) -> None:
    remembered = remember_links([f"https://h/{name}" for name in known], links_to(fresh))
    assert remembered == tuple(f"https://h/{name}" for name in expected)
