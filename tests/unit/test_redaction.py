"""Redaction: what may be quoted of a url or of a server's text."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sendgrid_exports.redaction import redact_page, redact_text, redact_url

SECRET = "s3cr3t"
PRESIGNED = f"https://h/p.csv?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}"
PIECES = st.text("abcXYZ019-._~%", min_size=1, max_size=12)
quick = settings(derandomize=True, max_examples=100, deadline=None)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/p.csv", "https://h/p.csv"),
        ("https://h:8443/a/b%2Fc", "https://h:8443/a/b%2Fc"),
        ("https://h/p?X-Amz-Signature=s3cr3t", "https://h/p?[redacted]"),
        ("https://h/p#s3cr3t", "https://h/p?[redacted]"),
        ("https://h/p?a=s3cr3t#s3cr3t", "https://h/p?[redacted]"),
        ("https://user:s3cr3t@h/p", "https://h/p"),
        ("https://user:s3cr3t@h@h/p?s3cr3t", "https://h/p?[redacted]"),
        ("http://[::1]:8080/p?s3cr3t", "http://[::1]:8080/p?[redacted]"),
        ("http://[s3cr3t", "[redacted]"),
        ("s3cr3t", "[redacted]"),
        ("h/p?s3cr3t", "[redacted]"),
        ("https:///p?s3cr3t", "[redacted]"),
        ("", "[redacted]"),
    ],
)
def test_a_url_shows_scheme_host_and_path(url: str, shown: str) -> None:
    assert redact_url(url) == shown
    assert SECRET not in shown


@quick
@given(host=PIECES, path=PIECES, query=PIECES, fragment=PIECES)
def test_no_url_shows_its_query(host: str, path: str, query: str, fragment: str) -> None:
    url = f"https://{host}/{path}?{query}#{fragment}"
    assert redact_url(url) == f"https://{host}/{path}?[redacted]"


@quick
@given(st.text())
def test_any_text_can_be_a_url(text: str) -> None:
    assert isinstance(redact_url(text), str)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("too many requests", "too many requests"),
        ("two\n  lines\tand\r\nmore ", "two lines and more"),
        ("what? see https://h/p", "what? see https://h/p"),
        ("Authorization: Bearer SG.s3cr3t.s3cr3t", "Authorization: Bearer [redacted]"),
        ("the key SG.s3cr3t-_.s3cr3t is bad", "the key [redacted] is bad"),
        ("authorization: basic czNjcjN0", "authorization: basic [redacted]"),
        ("GET https://h/p?sig=s3cr3t failed", "GET https://h/p?[redacted] failed"),
        ('<a href="https://h/p?s3cr3t">x</a>', '<a href="https://h/p?[redacted]">x</a>'),
        ("https://user:s3cr3t@h/p", "https://[redacted]@h/p"),
        ("X-Amz-Signature=s3cr3t&x=1", "X-Amz-Signature=[redacted]&x=1"),
        ("x-amz-credential: s3cr3t", "x-amz-credential: [redacted]"),
        ("<SignatureProvided>s3cr3t</SignatureProvided>", None),
        ("<CanonicalRequest>GET\n/p\ns3cr3t</CanonicalRequest>", None),
        ("<StringToSign>AWS4\ns3cr3t</StringToSign>", None),
        ("<ArgumentValue>Bearer s3cr3t</ArgumentValue>", None),
        ("<Token-0>s3cr3t</Token-0>", None),
        (f'{{"urls":["{PRESIGNED}"]}}', None),
        (f"{PRESIGNED.replace('&', chr(92) + 'u0026')}", None),
        (PRESIGNED.replace("/", "\\/"), None),
        (PRESIGNED.replace("&", "&amp;"), None),
    ],
)
def test_a_text_shows_no_secret(text: str, shown: str | None) -> None:
    found = redact_text(text)
    assert SECRET not in found
    if shown is None:
        assert "[redacted]" in found
    else:
        assert found == shown


@pytest.mark.parametrize(
    "text",
    [
        '{"X-Amz-Signature": "s3cr3t"}',
        "<Signature>s3cr3t</Signature>",
        "/next?url=https%3A%2F%2Fh%2Fp%3FX-Amz-Signature%3Ds3cr3t",
    ],
)
def test_a_secret_is_hidden_in_other_spellings(text: str) -> None:
    assert SECRET not in redact_text(text)


@pytest.mark.parametrize(
    ("length", "longest", "expected"), [(300, None, 300), (301, None, 300), (9, 8, 8), (8, 8, 8)]
)
def test_a_text_is_cut(length: int, longest: int | None, expected: int) -> None:
    text = "x" * length
    shown = redact_text(text) if longest is None else redact_text(text, longest=longest)
    assert len(shown) == expected
    assert shown.endswith("…") is (expected < length)


def test_secrets_are_hidden_before_the_text_is_cut() -> None:
    assert SECRET not in redact_text("x" * 290 + f" SG.{SECRET}" + "y" * 100)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
            "502 Bad Gateway",
        ),
        ("\ufeff\n<!DOCTYPE html>\n<TITLE lang=en>\n Just a\n moment </TITLE>", "Just a moment"),
        (
            "<!-- x --><html><title> </title><h1>503 Service Unavailable</h1>\nNone.",
            "503 Service Unavailable None.",
        ),
        (
            '<?xml version="1.0"?><!DOCTYPE html PUBLIC "x"><title>A &amp; B &lt;3</title>',
            "A & B <3",
        ),
        ("<html><script>if (a<b) c()</script><style>p{}</style><!-- a > b --><p>Denied", "Denied"),
        ("<html><script>var a", ""),
        ("<html><body><img src=x></body></html>", ""),
        ("<html>" + "x" * 200, "x" * 99 + "…"),
        (f"<html><title>{PRESIGNED}</title>", "https://h/p.csv?[redacted]"),
        (f"<html>Bearer <b>{SECRET}</b>", "Bearer [redacted]"),
        (f"<html>https&#58;//h/p?{SECRET}", "https://h/p?[redacted]"),
        (f"<html><StringToSign>{SECRET}</StringToSign>", "[redacted]"),
    ],
)
def test_a_page_says_its_title_or_its_first_text(text: str, said: str) -> None:
    shown = redact_page(text)
    assert shown == "an HTML page such as proxies send" + (f" ({said!r})" if said else "")


@pytest.mark.parametrize(
    "text", ["", "no", "{}", '"<html>"', "<Error><Code>x</Code></Error>", "<p>no</p>", "<htmlx>"]
)
def test_of_what_is_no_page_nothing_is_said(text: str) -> None:
    assert redact_page(text) == ""


@quick
@given(
    st.lists(
        st.sampled_from(
            ["<html>", "<!--", "-->", "<![x[", "<title>", "</", ">", "&#xd800;", "<script ", "a"]
        )
    )
)
def test_any_text_can_be_a_page(parts: list[str]) -> None:
    redact_page("<html>" + "".join(parts)).encode()


@quick
@given(before=st.text(max_size=30), after=st.text(max_size=30))
@example(before="https://", after="")
@example(before='"', after='"')
def test_a_presigned_url_is_hidden_wherever_it_stands(before: str, after: str) -> None:
    shown = redact_text(f"{before} {PRESIGNED} {after}", longest=1000)
    assert SECRET not in shown
    assert shown == " ".join(shown.split())


def test_a_long_text_is_read_in_no_time() -> None:
    began = time.process_time()
    redact_text("https://" * 4000)
    redact_page("<html>" + "<!-- <script" * 4000)
    assert time.process_time() - began < 0.1
