"""Everything a maintainer runs: `nox -s lint typing tests`, or `nox -l` for the list."""

from __future__ import annotations

import os
import posixpath
import re
import shutil
import tomllib
from pathlib import Path

import nox

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
PYTHONS = [
    classifier.rpartition(" ")[2]
    for classifier in PROJECT["classifiers"]
    if classifier.startswith("Programming Language :: Python :: 3.")
]

nox.options.sessions = ["lint", "typing", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_missing_interpreters = False


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("ruff>=0.14")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typing(session: nox.Session) -> None:
    """Mypy, strict, on everything; pyright on the library as its users write it."""
    session.install("-e", ".[test]", "mypy>=1.18", "pyright[nodejs]", "types-aiofiles", "nox")
    session.run("mypy")
    session.run("pyright", "tests/typing/api.py")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests against an installed wheel, for every Python the classifiers name."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session(python=PYTHONS[0])
def tests_lowest(session: nox.Session) -> None:
    """Run the tests with the lowest dependencies that are allowed."""
    lowest = [
        requirement.partition(",")[0].replace(">=", "==") for requirement in PROJECT["dependencies"]
    ]
    session.install(".[test]", *lowest)
    session.run("python", "-m", "pytest", *session.posargs, env={"PYTHONSAFEPATH": "1"})


@nox.session
def tests_s3(session: nox.Session) -> None:
    """Run against an S3 server that checks signatures and expiry: LocalStack, without Docker."""
    # These two are held back: LocalStack 4.9.2 does not start with later ones.
    session.install(
        ".[test]",
        "localstack-core[runtime]==4.9.2",
        "cbor2==5.7.0",
        "pyopenssl==25.1.0",
        "service-identity",
    )
    tests = session.posargs or ["tests/components/test_s3.py"]
    session.run("python", "-m", "pytest", "-rs", *tests, env={"PYTHONSAFEPATH": "1"})


@nox.session
def tests_components(session: nox.Session) -> None:
    """Run against nginx, and on real disks that are full; what is not there is skipped."""
    debian_programs(session, "nginx", "openssl", "mount")
    session.install(".[test]")
    tests = session.posargs or ["tests/components/test_nginx.py", "tests/components/test_disk.py"]
    session.run("python", "-m", "pytest", "-rs", *tests, env={"PYTHONSAFEPATH": "1"})


def debian_programs(session: nox.Session, *programs: str) -> None:
    """Install what is missing, where that may be done: the packages are named as their programs."""
    missing = [program for program in programs if not shutil.which(program)]
    if missing and shutil.which("apt-get") and os.geteuid() == 0:
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        session.run("apt-get", "-q", "update", external=True, env=env)
        session.run("apt-get", "-q", "-y", "install", *missing, external=True, env=env)


@nox.session
def properties(session: nox.Session) -> None:
    """Crash and resume as a property, for thousands of random stories."""
    session.install("-e", ".[test]")
    tests = session.posargs or ["tests/integration/test_crash_property.py"]
    env = {"SENDGRID_EXPORTS_EXAMPLES": session.env.get("SENDGRID_EXPORTS_EXAMPLES", "3000")}
    session.run("python", "-m", "pytest", "-q", *tests, env=env)


@nox.session
def kill(session: nox.Session) -> None:
    """Kill a real process with SIGKILL at random moments, over and over."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", "-s", "tests/crash", *session.posargs)


@nox.session
def load(session: nox.Session) -> None:
    """Export a thousand accounts on a fake clock, with 256 descriptors."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-q", "-s", "tests/load", *session.posargs)


@nox.session
def benchmarks_accounts(session: nox.Session) -> None:
    """Measure twenty accounts at once against one export of the same bytes."""
    session.install(".[fast]")
    session.run("python", "-m", "tests.benchmarks.accounts", *session.posargs)


@nox.session
def benchmarks_contents(session: nox.Session) -> None:
    """Measure the reading of contacts against csv, polars, pyarrow and DuckDB."""
    session.install(".[compare,fast]", "polars")
    session.run("python", "tests/benchmarks/contents.py", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Branch coverage: all of the pure floor, nearly all of the whole."""
    session.install("-e", ".[test,fast]")
    session.run("coverage", "run", "-m", "pytest", "-q", *session.posargs)
    session.run("coverage", "report", "--fail-under=95")
    session.run("coverage", "report", "--fail-under=100", f"--include={','.join(pure_floor())}")


def pure_floor() -> list[str]:
    """The files of the pure floor, as the test of the floors names them."""
    names: dict[str, list[str]] = {}
    source = Path("tests/unit/test_floors.py").read_text()
    exec(source[source.index("WORDS =") : source.index("SEAMS =")], names)  # noqa: S102
    modules = names["WORDS"] + names["PURE"]
    return [f"sendgrid_exports/{module.replace('.', '/')}.py" for module in modules]


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel from the sdist, install it alone, and import it."""
    session.install("build")
    target = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", target, ".")
    [wheel] = sorted(Path(target).glob("*.whl"))[-1:]
    session.install("--force-reinstall", str(wheel))
    with session.chdir(target):
        session.run("python", "-c", "import sendgrid_exports.testing as t; print(t.__file__)")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure against curl, aria2 and other libraries: `-- --quick` takes under two minutes."""
    etags = "libnginx-mod-http-headers-more-filter"
    debian_programs(session, "nginx", "openssl", "curl", "aria2", etags)
    session.install(".[fast]", "matplotlib")
    for peer in ("httpx", "pypdl", "parfive"):
        try:
            session.install(peer)
        except nox.command.CommandFailed:
            session.warn(f"{peer} can't be installed, and will be missing in the table")
    kept = session.create_tmp()
    session.run("python", "-m", "tests.benchmarks", "--data", kept, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the API reference into build/docs; a reference that leads nowhere fails."""
    session.install(".[test,opentelemetry]", "pdoc>=15")
    session.run("python", "-m", "pytest", "-q", "tests/unit/test_references.py")
    modules = ["sendgrid_exports", "sendgrid_exports.testing"]
    modules += ["sendgrid_exports.integrations.opentelemetry"]
    pdoc = ["pdoc", "--docformat", "google", "--output-directory", "build/docs", *modules]
    session.run("python", "-W", "error", "-m", *pdoc)
    built = Path("build/docs")
    for page in [*built.rglob("*.html"), built / "search.js"]:
        # What attrs says of every constructor tells nobody anything.
        text = re.sub(r"<p>Method generated by attrs for class \w+\.</p>", "", page.read_text())
        page.write_text(text)
    dead = dead_links(built)
    if dead:
        session.error(f"links that lead nowhere: {', '.join(dead)}")


def dead_links(built: Path) -> list[str]:
    """Return the links between the built pages that lead to no page or no place in it."""
    pages = {path.relative_to(built).as_posix(): path.read_text() for path in built.rglob("*.html")}
    places = {page: set(re.findall(r'id="([^"]+)"', text)) for page, text in pages.items()}
    dead = []
    for page, text in pages.items():
        for link in set(re.findall(r'href="([^":$]+)"', text)):
            file, _, place = link.partition("#")
            target = posixpath.normpath(posixpath.join(posixpath.dirname(page), file))
            target = target if file else page
            if target not in pages or (place and place not in places[target]):
                dead.append(f"{page}: {link}")
    return sorted(dead)


@nox.session
def screenshot(session: nox.Session) -> None:
    """Draw .github/progress.svg anew, from a real run of the demonstration."""
    session.install(".[cli]")
    session.run("python", ".github/screenshot.py")


@nox.session
def demo(session: nox.Session) -> None:
    """Back up 200,000 contacts from the embedded server."""
    session.install(".")
    session.run("python", "examples/backup_contacts.py", *session.posargs)


@nox.session
def live(session: nox.Session) -> None:
    """Back up the contacts of a real account: needs SENDGRID_API_KEY, and says so."""
    if not session.env.get("SENDGRID_API_KEY"):
        session.skip("SENDGRID_API_KEY is not set")
    session.install(".")
    session.run("python", "examples/backup_contacts.py", *session.posargs)
