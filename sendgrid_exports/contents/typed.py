"""Typed contacts: the same object of a row, whether that is CSV or JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from sendgrid_exports.decoding import decode
from sendgrid_exports.formats.csv_rows import split_values
from sendgrid_exports.models import Contact

__all__ = ["parse_contact"]

_RESERVED = {
    field.name.upper(): field.name
    for field in attrs.fields(Contact)
    if field.name != "custom_fields"
}


def parse_contact(row: Mapping[str, Any]) -> Contact:
    """Return the contact of a row of `read_contacts`, of a CSV export or of a JSON one.

    Args:
        row: the columns of a CSV export, known by its `CONTACT_ID`, or the object of a JSON one.

    Raises:
        InvalidResponseError: it is not what SendGrid documents; `problems` has the paths.
    """
    shape = _of_csv(row) if "CONTACT_ID" in row else _of_json(row)
    return decode(Contact, shape, "The contact")


def _of_csv(row: Mapping[str, Any]) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    custom: dict[str, str] = {}
    for column, value in row.items():
        if value == "":
            continue
        name = _RESERVED.get(column)
        if name is None:
            custom[column] = value
        else:
            shape[name] = _emails(value) if name == "alternate_emails" else value
    shape["custom_fields"] = custom
    return shape


def _emails(value: object) -> object:
    try:
        return split_values(value) if isinstance(value, str) else value
    except ValueError:
        # No list in a text: said to be none by whoever checks the shape.
        return value


def _of_json(row: Mapping[str, Any]) -> dict[str, Any]:
    shape = {name: value for name, value in row.items() if value is not None and value != ""}
    custom = shape.get("custom_fields")
    if isinstance(custom, Mapping):
        shape["custom_fields"] = {
            name: _text(value)
            for name, value in custom.items()
            if value is not None and value != ""
        }
    return shape


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
