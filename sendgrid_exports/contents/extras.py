"""The libraries of the extras, loaded only where they are used."""

from __future__ import annotations

import importlib

__all__ = ["require"]


def require(extra: str, *modules: str) -> None:
    """Load the modules of an extra.

    Raises:
        ImportError: one is not installed; the message has the line that installs it.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
            raise ImportError(
                f"This needs {name}, which is not installed: "
                f"pip install 'sendgrid-exports[{extra}]'",
                name=name,
            ) from None
