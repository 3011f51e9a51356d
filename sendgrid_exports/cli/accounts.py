"""Backing up every subuser, and a table of what came of each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Literal

import attrs
from rich.filesize import decimal

from sendgrid_exports import AccountResult, Bucket, DownloadResult, ExportClient, Subuser
from sendgrid_exports.accounts import export_with_marks
from sendgrid_exports.cli.backups import drop_older_than
from sendgrid_exports.cli.exits import Exit, Failure, run
from sendgrid_exports.cli.output import Output, fields_of
from sendgrid_exports.cli.progress import AccountsProgress
from sendgrid_exports.cli.text import count, plain

__all__ = ["Order", "back_up_accounts"]


@attrs.frozen(kw_only=True)
class Order:
    """The options of `backup --all-subusers`.

    Attributes:
        target: DIR, or a pattern with `{account}`.
        client: the arguments of the parent account's client.
        excepted: usernames that are left out.
        jobs: the most accounts at once.
        keep: how many backups of each account are kept; None: all.
        allow_shrink: whether a backup counts although it is much smaller than the last one.
        selection: the file type, and megabytes above which an export is split.
        timeout: seconds for each account, or None.
    """

    target: Path | Bucket
    client: Mapping[str, Any]
    excepted: Collection[str]
    jobs: int
    keep: int | None
    allow_shrink: bool
    selection: Mapping[str, Any]
    timeout: float | None

    @property
    def pattern(self) -> Path | Bucket:
        """Where the backups go, as `export_accounts` takes it."""
        is_pattern = "{account}" in str(self.target)
        return self.target if is_pattern else self.target / "{account}" / "{date}"


@attrs.define
class _Account:
    """A line of the table.

    Attributes:
        name: the username.
        state: what came of it.
        result: the verified export.
        failure: why there is none.
        dropped: the older backups that were dropped.
        counts: whether the backup counts.
    """

    name: str
    state: Literal["verified", "failed", "disabled", "left out", "unfinished"] = "unfinished"
    result: DownloadResult | None = None
    failure: Failure | None = None
    dropped: list[Path | Bucket] = attrs.field(factory=list)
    counts: bool = False

    def end(self, ended: AccountResult) -> None:
        """Take over what came of the account."""
        self.result = ended.result
        self.state = "failed" if ended.result is None else "verified"
        if ended.error is not None:
            self.failure = Failure(ended.error)
            self.failure.__cause__ = ended.error


def back_up_accounts(output: Output, order: Order) -> int:
    """Back up all subusers of a parent account, say what came of each, and return the exit code."""
    accounts: dict[str, _Account] = {}
    try:
        with output.follow_accounts() as follow:
            run(_export(order, accounts, follow))
        for account in accounts.values():
            if account.failure is not None:
                output.trace(account.failure)
            _keep(output, order, account)
    except BaseException:
        # The same command resumes all of it.
        if accounts:
            _show(output, accounts)
            output.note("Run the same command again: what is verified or started is not repeated.")
        raise
    for name in sorted(set(order.excepted) - accounts.keys()):
        output.warn(f"There is no subuser {plain(name)} to leave out.")
    _show(output, accounts)
    is_empty = all(account.state in {"disabled", "left out"} for account in accounts.values())
    if is_empty:
        output.warn("There is no subuser to back up.")
    failed = [account.name for account in accounts.values() if account.state == "failed"]
    output.document(
        {
            "verified": sum(account.state == "verified" for account in accounts.values()),
            "failed": failed,
            "accounts": [_document(account) for account in accounts.values()],
        }
    )
    if failed:
        output.warn(
            f"{len(failed):,} of {count(len(accounts), 'subuser')} could not be backed up: "
            f"{', '.join(map(plain, failed))}."
        )
    return Exit.SOME_FAILED if failed or is_empty else Exit.DONE


async def _export(order: Order, accounts: dict[str, _Account], follow: AccountsProgress) -> None:
    async with ExportClient(**order.client) as client:
        clients = []
        async for subuser in client.subusers():
            account = accounts[subuser.username] = _Account(subuser.username)
            if subuser.username in order.excepted:
                account.state = "left out"
            elif subuser.disabled:
                account.state = "disabled"
            elif (own := _client_of(client, subuser, account)) is not None:
                clients.append(own)
        follow.expect(len(clients))
        results = export_with_marks(
            order.pattern,
            clients,
            jobs=order.jobs,
            timeout=order.timeout,
            on_event=follow,
            marks={"allow_shrink": order.allow_shrink},
            **order.selection,
        )
        async with aclosing(results):
            async for ended in results:
                account = accounts[ended.name]
                account.end(ended)
                follow.end(ended)


def _client_of(client: ExportClient, subuser: Subuser, account: _Account) -> ExportClient | None:
    try:
        return client.for_subuser(subuser)
    except ValueError as error:
        account.end(AccountResult(name=subuser.username, error=error))
        return None


def _keep(output: Output, order: Order, account: _Account) -> None:
    if account.result is None:
        return
    account.dropped, account.counts = drop_older_than(
        account.result,
        order.keep,
        output.warn,
        lambda found: output.warn(
            f"{found.target} is not counted: export {found.export_id} is unfinished. Remove "
            "the folder once the export has expired."
        ),
    )


def _show(output: Output, accounts: Mapping[str, _Account]) -> None:
    if output.quiet:
        return
    rows = []
    for account in accounts.values():
        contacts, files, size, where = "", "", "", ""
        if account.result is not None:
            found = account.result.contact_count
            contacts = "-" if found is None else f"{found:,}"
            files = str(len(account.result.files))
            size = decimal(sum(file.size for file in account.result.files))
            where = str(account.result.target)
        elif account.failure is not None:
            where = account.failure.message
        rows.append([account.name, account.state, contacts, files, size, where])
    if rows:
        columns = ["account", "state", "contacts", "files", "size", "directory, or why not"]
        output.table(columns, rows)


def _document(account: _Account) -> dict[str, Any]:
    result, failure = account.result, account.failure
    document: dict[str, Any] = {"name": account.name, "state": account.state}
    if result is not None:
        document |= {
            "export_id": result.export.id,
            "directory": str(result.target),
            "contacts": result.contact_count,
            "files": [fields_of(file) for file in result.files],
            "dropped": [str(path) for path in account.dropped],
            "counts": account.counts,
        }
    if failure is not None:
        error = {"type": failure.kind, "message": failure.message}
        document["error"] = {**error, "exit_code": int(failure.exit_code)}
        document["export_id"] = failure.export_id
    return document
