"""`python -m sendgrid_exports` and `sendgrid-exports`: the command, where its extra is there."""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = {"click", "rich"}


def main() -> int:
    """Run the command line and return its exit code; without the extra, say what is missing."""
    try:
        return _main()
    except KeyboardInterrupt:
        # The modules take long enough to load to be interrupted.
        sys.stderr.write("Interrupted.\n")
        return 130


def _main() -> int:
    try:
        from sendgrid_exports.cli.main import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.stderr.write(
            f"The command needs {missing}, of the extra cli, which is not installed. "
            "In a checkout: pip install '.[cli]'\n"
        )
        return 1
    return run()


if __name__ == "__main__":
    sys.exit(main())
