"""Arguments: which are accepted, and what is said of the others."""

from __future__ import annotations

import pytest

from sendgrid_exports.api.arguments import check_api_key, check_base_url, check_text


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (None, TypeError, "must be text, not NoneType"),
        (b"abc", TypeError, "must be text, not bytes"),
        ("", ValueError, "must not be empty"),
        (" \t", ValueError, "must not be empty"),
        ("a\nb", ValueError, "must not hold control characters"),
        ("a\x00", ValueError, "must not hold control characters"),
        ("\ud800", ValueError, "must not hold control characters"),
    ],
)
def test_text_must_fit_a_header_or_url(value: object, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=f"^api_key {words}"):
        check_text(value, "api_key")


@pytest.mark.parametrize("text", ["SG.abc", "a b", "ü", "0"])
def test_other_text_is_returned_as_it_is(text: str) -> None:
    assert check_text(text, "api_key") == text


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://api.sendgrid.com", "https://api.sendgrid.com"),
        ("https://api.eu.sendgrid.com/", "https://api.eu.sendgrid.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]:8080/", "http://[::1]:8080"),
        ("https://proxy/sendgrid//", "https://proxy/sendgrid"),
    ],
)
def test_base_url_loses_the_slash_at_its_end(url: str, base: str) -> None:
    assert check_base_url(url) == base


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.sendgrid.com",
        "ftp://api.sendgrid.com",
        "https://",
        "https:///v3",
        "https://user:s3cr3t@api.sendgrid.com",
        "https://@api.sendgrid.com",
        "https://api.sendgrid.com?s3cr3t",
        "https://api.sendgrid.com/#s3cr3t",
        "https://api.sendgrid.com:port",
        "https://api.sendgrid.com:99999",
        "https://[::1",
        "https://api.sendgrid.com\n",
    ],
)
def test_base_url_rejects_userinfo_query_fragment_and_other_schemes(url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url ") as caught:
        check_base_url(url)
    assert "s3cr3t" not in str(caught.value)
    with pytest.raises(TypeError, match=r"^base_url "):
        check_base_url(url.encode())


@pytest.mark.parametrize("url", ["https://h?", "https://h#", "https://h ", "https://a b"])
def test_base_url_rejects_what_no_path_can_be_added_to(url: str) -> None:
    with pytest.raises(ValueError, match=r"^base_url "):
        check_base_url(url)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_base_url_may_be_http_on_this_machine(host: str) -> None:
    assert check_base_url(f"http://{host}:8080/") == f"http://{host}:8080"


def test_base_url_may_be_http_elsewhere_only_if_asked_for() -> None:
    url = "http://gateway.example"
    with pytest.raises(ValueError, match=r"^base_url .*https://.*allow_insecure_http=True"):
        check_base_url(url)
    assert check_base_url(url, allow_insecure_http=True) == url


@pytest.mark.parametrize("tail", ["/v3", "/v3/", "/v3/marketing"])
@pytest.mark.parametrize("root", ["https://api.sendgrid.com", "https://h/proxy/v3x"])
def test_base_url_with_the_version_is_refused_with_the_right_one(root: str, tail: str) -> None:
    with pytest.raises(ValueError, match=rf"^base_url .*: pass {root}$"):
        check_base_url(root + tail)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("Bearer SG.a.s3cr3t", "Bearer"),
        ("Authorization: bearer SG.a.s3cr3t", "Bearer"),
        ("SENDGRID_API_KEY=SG.a.s3cr3t", "NAME="),
        ("export KEY = SG.a.s3cr3t", "NAME="),
        ("'SG.a.s3cr3t'", "quotes"),
        ("SG.a.s3cr3t”", "quotes"),
        ("SG.a s3cr3t", "spaces"),
        ("SG.a.s3cr3t ", "spaces"),
        ("\ufeffSG.a.s3cr3t", "byte order mark"),
        ("SG.a.s3cr3t".encode("utf-16").decode("utf-8", "replace"), "UTF-16"),
        ("SG.a.s3cr3t\n", "line break"),
        ("", "empty"),
    ],
)
def test_an_api_key_that_was_copied_badly_is_refused_with_the_reason(key: str, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^api_key .*{said}") as caught:
        check_api_key(key)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize("key", ["SG.a-b_c.d-e_f", "c2VjcmV0==", "key=", "0", "ü"])
def test_any_other_api_key_is_accepted(key: str) -> None:
    assert check_api_key(key) == key


def test_an_api_key_is_text() -> None:
    with pytest.raises(TypeError, match=r"^api_key must be text, not bytes"):
        check_api_key(b"SG.a.b")
