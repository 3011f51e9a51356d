"""Every name between backticks in a public docstring exists, and so does every linked file."""

from __future__ import annotations

import builtins
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import sendgrid_exports
from sendgrid_exports import testing
from sendgrid_exports.integrations import opentelemetry

ROOT = Path(__file__).parents[2]
MODULES = [sendgrid_exports, testing, opentelemetry]
REFERENCE = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")
ATTRIBUTE = re.compile(r"^ {4}(\w+): ", re.MULTILINE)

# What SendGrid, S3 and others say, and what stands for itself.
WORDS = set(
    """
    csv json pending ready failure self urls field
    contacts_export list_export segment_export contact_count contact_id max_file_size message
    custom_fields alternate_emails strict replace
    schema zstd snappy lz4 gzip brotli
    md5 weak multipart kms none length
    cloud global eu
    https AccessDenied NoSuchKey InternalError SlowDown Date
    opentelemetry sendgrid.export sendgrid.export.file sendgrid.export.received By
    sendgrid.export.polls sendgrid.export.retries sendgrid.export.renewals
    sendgrid.export.retry.target
    """.split()
)


def documented() -> Iterator[tuple[str, object]]:
    """Yield the path and the object of everything public that can have a docstring."""
    for module in MODULES:
        yield module.__name__, module
        for name in module.__all__:
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                for member, function in vars(value).items():
                    if not member.startswith("_") and inspect.getdoc(function):
                        yield f"{module.__name__}.{name}.{member}", function


DOCUMENTED = dict(documented())


def known_names() -> set[str]:
    """Return the names that are public anywhere: members, fields, parameters, attributes."""
    names = {*dir(builtins), "sendgrid_exports"}
    for path, value in DOCUMENTED.items():
        names |= {path.rpartition(".")[2], *ATTRIBUTE.findall(inspect.getdoc(value) or "")}
        if inspect.isclass(value):
            names.update(dir(value))
        if callable(value):
            names.update(inspect.signature(value).parameters)
    return names


NAMES = known_names()


def broken(text: str) -> list[str]:
    return [name for name in REFERENCE.findall(text) if not exists(name)]


def exists(name: str) -> bool:
    # Columns of SendGrid's are upper case.
    if name in WORDS or name.isupper() or NAMES.issuperset(name.split(".")):
        return True
    try:
        return "." in name and bool(pkgutil.resolve_name(name))
    except (AttributeError, ImportError):
        return False


@pytest.mark.parametrize("path", DOCUMENTED)
def test_every_reference_leads_somewhere(path: str) -> None:
    assert broken(inspect.getdoc(DOCUMENTED[path]) or "") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("`NoSuchThing`", ["NoSuchThing"]),
        ("`ExportClient.no_such_method`", ["ExportClient.no_such_method"]),
        ("`no_such.module`", ["no_such.module"]),
        ("`no_such_argument`", ["no_such_argument"]),
        ("`ExportClient.start`, `api_key`, `start`, `asyncio.timeout`, `OSError`, `csv`", []),
    ],
)
def test_a_broken_reference_is_found(text: str, names: list[str]) -> None:
    assert broken(text) == names


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md"])
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    links += re.findall(r"(?:src|href)=\"(?!https?:)([^\"#]+)\"", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []
