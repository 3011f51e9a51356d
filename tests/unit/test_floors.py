"""The house as its source shows it: floors, importers, and what may stand where."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "sendgrid_exports"
NAME = PACKAGE.name

WORDS = ["redaction", "models", "errors", "events", "settings", "contents.changes"]
PURE = [
    "http",
    "delays",
    "decoding",
    "api.arguments",
    "api.wire",
    "api.polling",
    "formats.gunzip",
    "formats.records",
    "formats.text",
    "formats.quoted_csv",
    "formats.csv_rows",
    "formats.ndjson_rows",
    "transfer.links",
    "transfer.names",
    "transfer.pieces",
    "transfer.plan",
    "transfer.speed",
    "transfer.answers",
    "transfer.tries",
    "transfer.journal",
    "transfer.manifest",
    "transfer.verify",
    "contents.typed",
]
SEAMS = [
    "timing",
    "session",
    "disk",
    "transfer.lock",
    "transfer.reading",
    "contents.sources",
    "contents.plain",
    "contents.rows",
    "contents.extras",
    "contents.columns",
    "contents.parts",
    "contents.csv_batches",
    "contents.arrow_batches",
    "contents.parquet",
    "contents.differences",
]
SHELLS = [
    "api.exports",
    "transfer.tasks",
    "transfer.request",
    "transfer.folder",
    "transfer.opening",
    "transfer.connections",
    "transfer.job",
    "transfer.durable",
    "transfer.progress",
    "transfer.proof",
    "transfer.audit",
    "transfer.download",
    "transfer.straight",
    "transfer.delivery",
    "contents.batches",
    "contents.arrow",
    "contents.fragments",
    "contents.comparing",
    "contents.proving",
    "contents.streaming",
]
FACE = ["client", ""]
FLOORS = [WORDS, PURE, SEAMS, SHELLS, FACE]
WINGS = ["api", "transfer", "contents"]

# Words of the seams that the pure floor speaks: arithmetic without a clock.
PURE_NAMES = {"timing": {"Deadline"}}

ONE_IMPORTER = {
    "aiohttp": "session",
    "aiofiles": "disk",
    "cattrs": "decoding",
    "backoff": "delays",
}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in {"testing", "integrations", "cli", "__main__"}:
            continue
        name = ".".join(part for part in parts if part != "__init__")
        if parts[-1] == "__init__" and name:
            assert not imports(path), f"{name}/__init__.py only says what the room is for"
            continue
        found[name] = path
    return found


def imports(path: Path) -> list[tuple[str, set[str]]]:
    """Every module imported for real (not for type checkers alone), with the names taken."""
    found = []
    for node in runtime_nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, set[str]()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", {alias.name for alias in node.names}))
    return [(module, names) for module, names in found if module != "__future__"]


def runtime_nodes(tree: ast.AST) -> list[ast.AST]:
    nodes: list[ast.AST] = []
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        nodes.append(child)
        nodes += runtime_nodes(child)
    return nodes


def floor_of(name: str) -> int:
    return next(level for level, floor in enumerate(FLOORS) if name in floor)


def test_every_module_has_its_floor() -> None:
    assert sorted(modules()) == sorted(name for floor in FLOORS for name in floor)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down_only(name: str) -> None:
    for module, names in imports(modules()[name]):
        if module != NAME and not module.startswith(f"{NAME}."):
            continue
        imported = module.removeprefix(NAME).removeprefix(".")
        if imported not in modules():
            imported = f"{imported}.{next(iter(names))}".removeprefix(".")
        if names and names <= PURE_NAMES.get(imported, set()):
            continue
        assert floor_of(imported) <= floor_of(name), f"{name} imports {imported} from above"
        wing, other = name.partition(".")[0], imported.partition(".")[0]
        if wing in WINGS and other in WINGS:
            assert WINGS.index(other) <= WINGS.index(wing), f"{name} looks ahead to {imported}"


@pytest.mark.parametrize("name", WORDS + PURE)
def test_the_pure_floor_has_no_clock_no_file_no_socket_no_async(name: str) -> None:
    tree = ast.parse(modules()[name].read_text())
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"open", "print", "input"}
            assert called.rpartition(".")[2] not in {"now", "utcnow", "time", "monotonic"}
    forbidden = {"asyncio", "time", "os", "socket", "random", "threading", "tempfile", "shutil"}
    assert not {module.partition(".")[0] for module, _ in imports(modules()[name])} & forbidden


@pytest.mark.parametrize(("library", "importer"), ONE_IMPORTER.items())
def test_each_library_has_one_importer(library: str, importer: str) -> None:
    importers = [
        name
        for name, path in modules().items()
        if any(module.partition(".")[0] == library for module, _ in imports(path))
    ]
    assert importers == [importer]


def test_only_timing_sleeps_and_reads_the_time() -> None:
    for name, path in modules().items():
        source = path.read_text()
        if name != "timing":
            assert "asyncio.sleep" not in source
            assert "asyncio.timeout" not in source
        assert "time.time()" not in source
        assert "print(" not in source


@pytest.mark.parametrize("name", sorted(modules()))
def test_what_is_raised_while_handling_says_from_what(name: str) -> None:
    tree = ast.parse(modules()[name].read_text())
    for handler in ast.walk(tree):
        if isinstance(handler, ast.ExceptHandler):
            for node in ast.walk(handler):
                if isinstance(node, ast.Raise) and node.exc is not None:
                    assert node.cause is not None, f"{name}:{node.lineno}"


@pytest.mark.parametrize("room", ["cli", "integrations"])
def test_what_stands_beside_the_floors_uses_the_face_alone(room: str) -> None:
    for path in (PACKAGE / room).glob("*.py"):
        for module, _ in imports(path):
            inside = module == NAME or module.startswith(f"{NAME}.")
            # What our files are called is said once.
            public = {NAME, f"{NAME}.testing", f"{NAME}.transfer.names"}
            # How an export is divided among processes, and what is said of a missing extra.
            public |= {f"{NAME}.contents.{name}" for name in ("extras", "fragments", "sources")}
            assert not inside or module in public or f"{module}.".startswith(f"{NAME}.{room}."), (
                path
            )
        assert len(path.read_text().splitlines()) <= 300
