"""Contacts to export: the same ones every time for the same seed, all of them awkward.

Contact n depends on the seed and on n alone, so a test that knows an export's seed knows every
value in it. Among them are commas, quotes, line breaks, emoji, names from everywhere, texts
that look like something else ("NA", "null", "007"), contacts without an email address, and two
custom fields whose names differ only by case.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any, Final

__all__ = ["CUSTOM_FIELDS", "csv_row", "make_contacts"]

_MASK: Final = (1 << 64) - 1
_STEP: Final = 0x9E3779B97F4A7C15
# Formatting dates would cost more than all the rest of a contact.
_DAYS: Final = tuple((date(2021, 2, 1) + timedelta(days)).isoformat() for days in range(1500))
_TIMES: Final = tuple(
    f"T{n * 86 // 3600:02}:{n * 86 // 60 % 60:02}:{n * 86 % 60:02}Z" for n in range(1000)
)

_FIRST: Final = (
    "Ana", "José", "Zoë", "Siobhán", "李", "さくら", "Мария", "محمد", "Ἀλέξανδρος", "Nguyễn",
    "NA", "null", "None", "O'Neil", 'Robert "Bob"', "Jean-Luc", "🦊 Fox", "Ada", "Grace", "Linus",
)  # fmt: skip
_LAST: Final = (
    "Smith, Jr.", "García", "Müller", "O'Brien", "Ivanova", "王", "Kowalczyk", "Null", "N/A",
    "true", "van der Berg", "Ødegård", "Yılmaz", "d'Arc", "-", "Hopper",
)  # fmt: skip
_ADDRESS: Final = (
    "1 Main Street", "12 High Street\nFlat 4", "5, rue de l’Église", "Ringstraße 7\r\nHinterhaus",
    "Plaza Mayor 3, 2º", '"The Old Mill"', "007",
)  # fmt: skip
_PLACE: Final = (
    ("Denver", "CO", "80202", "USA"),
    ("San Juan", "PR", "00901", "USA"),
    ("München", "Bayern", "80331", "Germany"),
    ("北京", "", "100000", "China"),
    ("Malmö", "Skåne", "211 20", "Sweden"),
    ("São Paulo", "SP", "01000-000", "Brazil"),
    ("Windhoek", "Khomas", "007", "NA"),
)
_DOMAIN: Final = ("example.com", "example.org", "mail.example.net", "bücher.example")
_PLAN: Final = ("free", "pro", "enterprise", "NA", "null", "007", "=1+1", "a,b", "1e5")
_NOTE: Final = (
    'said "hi"', "two\nlines", "tab\there", "🎉🎉", " spaces around ", "back\\slash", "NULL", "{}",
)  # fmt: skip

CUSTOM_FIELDS: Final = ("Plan", "plan", "lifetime_value", "Signed_Up_On", "Notes 📝")
"""The names of the custom fields, in the order of their columns."""

_BEFORE_CUSTOM: Final = (
    "email", "first_name", "last_name", "address_line_1", "address_line_2", "city",
    "state_province_region", "postal_code", "country", "alternate_emails", "phone_number",
    "whatsapp", "line", "facebook", "unique_name", "created_at", "updated_at", "contact_id",
)  # fmt: skip
_AFTER_CUSTOM: Final = ("phone_number_id", "external_id", "anonymous_id")

CSV_COLUMNS: Final = (
    *(name.upper() for name in _BEFORE_CUSTOM),
    *CUSTOM_FIELDS,
    *(name.upper() for name in _AFTER_CUSTOM),
)
"""The header of a CSV export: reserved columns in capitals, custom fields in their own case."""


def make_contacts(count: int, *, seed: int = 0, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yield contacts number `start` to `start + count - 1`, shaped like a line of a JSON export.

    The key is `contact_id`, fields without a value are absent, `alternate_emails` is a list and
    `custom_fields` an object; a custom field may be a number.
    """
    base = _mix(seed * _STEP + 0x5EED)
    for number in range(start, start + count):
        yield _contact(number, _mix(base + number * _STEP))


def _mix(value: int) -> int:
    """Scatter 64 bits (splitmix64's finalizer): neighbours get unrelated values."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _contact(number: int, dice: int) -> dict[str, Any]:
    more = _mix(dice)
    city, region, postal_code, country = _PLACE[dice % 7]
    day = more % 1000
    key = f"{dice:016x}{more:016x}"
    contact: dict[str, Any] = {
        "contact_id": f"{key[:8]}-{key[8:12]}-4{key[13:16]}-a{key[17:20]}-{key[20:]}",
        "first_name": _FIRST[(dice >> 8) % 20],
        "last_name": _LAST[(dice >> 16) % 16],
        "city": city,
        "postal_code": postal_code,
        "country": country,
        "created_at": _DAYS[day] + _TIMES[(more >> 10) % 1000],
        "updated_at": _DAYS[day + 1 + dice % 499] + _TIMES[(dice >> 10) % 1000],
        "custom_fields": (fields := {"Plan": _PLAN[(dice >> 24) % 9]}),
    }
    if region:
        contact["state_province_region"] = region
    if number % 50 == 49:
        contact["phone_number_id"] = contact["phone_number"] = f"+1555{dice % 10_000_000:07d}"
    else:
        contact["email"] = f"contact.{number}@{_DOMAIN[(dice >> 28) % 4]}"
    _add_rare_fields(contact, fields, number, dice, more)
    return contact


def _add_rare_fields(
    contact: dict[str, Any], fields: dict[str, Any], number: int, dice: int, more: int
) -> None:
    choice = more >> 20
    if choice & 1:
        contact["address_line_1"] = _ADDRESS[(dice >> 32) % 7]
    if choice & 6 == 0:
        fields["plan"] = _PLAN[(dice >> 36) % 9]
    if choice & 24:
        fields["lifetime_value"] = dice % 100_000 / 100 if choice & 8 else dice % 1000
    if choice & 96 == 0:
        fields["Notes 📝"] = _NOTE[(dice >> 40) % 8]
        fields["Signed_Up_On"] = contact["created_at"]
    if choice & 896 == 0:
        contact["alternate_emails"] = [
            f"old.{number}@example.com",
            f'"quoted, {number}"@example.org',
        ]
        contact["address_line_2"] = f"Suite {dice % 1000:03d}"
    if choice & 0x1C00 == 0:
        contact["external_id"] = f"{number:08d}"
        contact["whatsapp"] = contact["line"] = f"+4479{dice % 100_000_000:08d}"
    if choice & 0xE000 == 0:
        contact["anonymous_id"] = f"{more:016x}"
        contact["facebook"] = f"fb-{dice % 100_000}"
        contact["unique_name"] = f"Nutzer № {number}"


def csv_row(contact: Mapping[str, Any]) -> dict[str, str]:
    """Return `contact` as the columns of a CSV export: column to text, in the columns' order.

    A field that the contact lacks is an empty text, `ALTERNATE_EMAILS` a quoted list in one text.
    """
    return dict(zip(CSV_COLUMNS, csv_values(contact), strict=True))


def csv_values(contact: Mapping[str, Any]) -> list[str]:
    """Return the texts of `csv_row` alone."""
    get, custom = contact.get, contact["custom_fields"].get
    values = [get(name, "") for name in _BEFORE_CUSTOM]
    if values[9]:
        values[9] = ",".join(['"' + email.replace('"', '""') + '"' for email in values[9]])
    values += [str(custom(name, "")) for name in CUSTOM_FIELDS]
    values += [get(name, "") for name in _AFTER_CUSTOM]
    return values
