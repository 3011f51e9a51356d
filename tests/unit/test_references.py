"""Every name between backticks in a public docstring is one that exists."""

from __future__ import annotations

import builtins
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import sendgrid_exports
from sendgrid_exports import testing
from sendgrid_exports.integrations import opentelemetry

ROOT = Path(__file__).parents[2]
MODULES = [sendgrid_exports, testing, opentelemetry]
NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)(?:\(\))?`(?!`)")

# What SendGrid, S3 and others say, and what stands for itself.
WORDS = set(
    """
    csv json pending ready failure self urls field
    contacts_export list_export segment_export contact_count contact_id max_file_size message
    custom_fields alternate_emails strict replace
    schema zstd snappy lz4 gzip brotli
    md5 weak multipart kms none length
    https AccessDenied NoSuchKey InternalError SlowDown Date
    opentelemetry sendgrid.export sendgrid.export.file sendgrid.export.received By
    sendgrid.export.polls sendgrid.export.retries sendgrid.export.renewals
    sendgrid.export.retry.target
    """.split()
)


def documented() -> Iterator[tuple[str, object, object]]:
    """Yield the name, the object and the owner of everything public that has a docstring."""
    for module in MODULES:
        yield module.__name__, module, module
        for name in module.__all__:
            value = getattr(module, name)
            yield f"{module.__name__}.{name}", value, value
            if inspect.isclass(value):
                for member, function in vars(value).items():
                    if not member.startswith("_") and isinstance(
                        function, types.FunctionType | property | staticmethod | classmethod
                    ):
                        yield f"{module.__name__}.{name}.{member}", function, value


def broken(text: str, thing: object, owner: object) -> list[str]:
    """Return the names in `text` that lead nowhere, as seen from `thing` in `owner`."""
    names = known_names(thing, owner)
    return [name for name in NAME.findall(text) if not leads_somewhere(name, names)]


def leads_somewhere(name: str, names: dict[str, object]) -> bool:
    first, *rest = name.split(".")
    # Columns of SendGrid's are upper case.
    if name in WORDS or name.isupper():
        return True
    if first in names:
        value = names[first]
    elif rest:
        try:
            value = importlib.import_module(first)
        except ModuleNotFoundError:
            return False
    else:
        return False
    for part in rest:
        members = vars(value) | fields_of(value) if hasattr(value, "__dict__") else {}
        if part not in members and not hasattr(value, part):
            return False
        value = getattr(value, part, members.get(part))
    return True


def known_names(thing: object, owner: object) -> dict[str, object]:
    names: dict[str, object] = {**vars(builtins)}
    for module in MODULES:
        names |= vars(module)
    names |= {"sendgrid_exports": sendgrid_exports}
    where: Any = inspect.getmodule(owner)
    names |= vars(where) if where else {}
    names |= fields_of(owner)
    for name in sendgrid_exports.__all__:
        if name.endswith("Error"):
            names |= fields_of(getattr(sendgrid_exports, name))
    if inspect.isfunction(thing):
        # What it returns is written as text, and may need an extra to be more than that.
        names |= fields_of(names.get(str(thing.__annotations__.get("return"))))
    for callable_ in (thing, owner):
        if inspect.isroutine(callable_) or inspect.isclass(callable_):
            try:
                names |= inspect.signature(callable_).parameters
            except (TypeError, ValueError):
                continue
    return names


def fields_of(owner: object) -> dict[str, object]:
    if not inspect.isclass(owner):
        return {}
    names = {name: getattr(owner, name) for name in dir(owner)}
    if attrs.has(owner):
        names |= {field.name: field.type for field in attrs.fields(owner)}
    # What an error carries is told by its own docstring.
    attributes = re.findall(r"^ {4}(\w+): ", inspect.getdoc(owner) or "", re.MULTILINE)
    return names | dict.fromkeys(attributes)


@pytest.mark.parametrize(
    ("thing", "owner"), [case[1:] for case in documented()], ids=[case[0] for case in documented()]
)
def test_every_reference_leads_somewhere(thing: object, owner: object) -> None:
    if not isinstance(thing, types.GenericAlias) and not isinstance(thing, types.UnionType):
        assert broken(inspect.getdoc(thing) or "", thing, owner) == []


@pytest.mark.parametrize(
    "text",
    ["`NoSuchThing`", "`ExportClient.no_such_method`", "`no_such.module`", "`no_such_argument`"],
)
def test_a_broken_reference_is_seen(text: str) -> None:
    assert broken(text, sendgrid_exports.ExportClient, sendgrid_exports.ExportClient)


def test_a_good_reference_is_not() -> None:
    client = sendgrid_exports.ExportClient
    text = "`ExportClient.start`, `api_key`, `start`, `asyncio.timeout`, `OSError`, `csv`"
    assert broken(text, client, client) == []


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md", ".github/CONTRIBUTING.md"])
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    text = (ROOT / page).read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    links += re.findall(r"(?:src|href)=\"(?!https?:)([^\"#]+)\"", text)
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert missing == []
