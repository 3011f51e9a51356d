"""What a comparison of two exports says: frozen attrs objects."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

__all__ = ["ChangeKind", "ComparisonSummary", "ContactChange", "FieldChange"]


class ChangeKind(StrEnum):
    """What became of a contact."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


@attrs.frozen
class FieldChange:
    """A value that is another one now; both as a CSV export has them, empty for none.

    Attributes:
        name: the column: reserved ones in capitals, custom fields as they are spelt.
        old: what it was.
        new: what it is.
    """

    name: str
    old: str
    new: str


@attrs.frozen(kw_only=True)
class ContactChange:
    """A contact that is in one export alone, or not the same in both.

    Attributes:
        contact_id: SendGrid's id of the contact.
        kind: what became of it.
        fields: the values that are different; of an added or removed contact, all it has.
    """

    contact_id: str
    kind: ChangeKind
    fields: tuple[FieldChange, ...]


@attrs.frozen(kw_only=True)
class ComparisonSummary:
    """How many contacts are different.

    Attributes:
        added: contacts that only the new export has.
        removed: contacts that only the old export has.
        changed: contacts that both have, with different values.
        unchanged: contacts that are the same in both.
        fields: in how many of the changed contacts each column is different.
    """

    added: int
    removed: int
    changed: int
    unchanged: int
    fields: Mapping[str, int]
