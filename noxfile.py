"""Everything a maintainer runs: `nox` checks a change, `nox -l` lists the rest."""

from __future__ import annotations

import os
import shutil
from itertools import chain
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"
nox.options.tags = ["check"]

PYPROJECT = nox.project.load_toml("pyproject.toml")
PROJECT = PYPROJECT["project"]
PYTHONS = nox.project.python_versions(PYPROJECT)

# Without the checkout on the path, tests import the installed wheel.
INSTALLED = {"PYTHONSAFEPATH": "1"}


def group(name: str) -> list[str]:
    """Return the requirements of a dependency group, without the need for a recent pip."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Check style and format (ruff), the layers (import-linter) and dead code (vulture)."""
    session.install(*group("lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", "--no-logo")
    session.run("vulture")


@nox.session(tags=["check"])
def typing(session: nox.Session) -> None:
    """Run mypy on everything, strict; pyright on the library as its users write it."""
    session.install("-e", ".[all]", *group("typing"))
    session.run("mypy")
    session.run("pyright", "tests/typing/api.py")


@nox.session(python=PYTHONS, tags=["check"])
def tests(session: nox.Session) -> None:
    """Run the tests against an installed wheel, on every Python of the classifiers."""
    session.install(".[all]", *group("test"))
    session.run("python", "-m", "pytest", *session.posargs, env=INSTALLED)


@nox.session(python=PYTHONS[0])
def tests_lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version that each dependency and extra allows."""
    session.install(".[all]", *group("test"), *lowest_versions())
    session.run("python", "-m", "pytest", *session.posargs, env=INSTALLED)


def lowest_versions() -> list[str]:
    """Return a pin for every lower bound in the dependencies and the extras."""
    extras = PROJECT["optional-dependencies"]
    [everything] = map(Requirement, extras["all"])
    texts = chain(PROJECT["dependencies"], *(extras[extra] for extra in sorted(everything.extras)))
    return sorted(
        {
            f"{requirement.name}=={specifier.version}"
            for requirement in map(Requirement, texts)
            for specifier in requirement.specifier
            if specifier.operator == ">="
        }
    )


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure branch coverage: all of the pure modules, nearly all of the package."""
    session.install("-e", ".[all]", *group("coverage"))
    session.run("coverage", "run", "-m", "pytest", "-q", *session.posargs)
    session.run("coverage", "report", "--fail-under=95")
    session.run("coverage", "report", "--fail-under=100", f"--include={','.join(pure_modules())}")


def pure_modules() -> list[str]:
    """Return the files of the import-linter contract that is named pure."""
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    [pure] = [contract for contract in contracts if contract["id"] == "pure"]
    return [f"{module.replace('.', '/')}.py" for module in pure["source_modules"]]


@nox.session(tags=["slow"])
def tests_components(session: nox.Session) -> None:
    """Run against nginx and on full disks; skips say what is missing (see the session debian)."""
    session.install(".[all]", *group("test"))
    tests = session.posargs or ["tests/components/test_nginx.py", "tests/components/test_disk.py"]
    session.run("python", "-m", "pytest", "-rs", *tests, env=INSTALLED)


@nox.session(tags=["slow"])
def tests_buckets(session: nox.Session) -> None:
    """Run against buckets: S3 as moto serves it, Azure's storage as Azurite does (needs npm)."""
    session.install(".[all]", *group("test"), "moto[server]", "azure-storage-blob")
    azurite = Path(session.create_tmp(), "azurite")
    if shutil.which("npm"):
        session.run("npm", "install", "--prefix", str(azurite), "azurite", external=True)
    path = f"{azurite / 'node_modules' / '.bin'}{os.pathsep}{os.environ['PATH']}"
    tests = session.posargs or ["tests/components/test_buckets.py"]
    session.run("python", "-m", "pytest", "-rs", *tests, env={**INSTALLED, "PATH": path})


@nox.session(tags=["slow"])
def tests_dask(session: nox.Session) -> None:
    """Compute exports in two worker processes of Dask."""
    tests_integration(session, "dask", "dask.dataframe", "distributed")


@nox.session(tags=["slow"])
def tests_dlt(session: nox.Session) -> None:
    """Load exports into DuckDB with dlt."""
    tests_integration(session, "dlt", "dlt", "duckdb")


def tests_integration(session: nox.Session, extra: str, *modules: str) -> None:
    """Run the tests of an integration, which are skipped only where its extra is missing."""
    session.install(f".[all,{extra}]", *group("test"))
    # A skip must not pass for a success.
    session.run("python", "-c", f"import {', '.join(modules)}")
    tests = session.posargs or [f"tests/integration/test_{extra}.py"]
    session.run("python", "-m", "pytest", "-q", *tests, env={"PYTHONSAFEPATH": "1"})


@nox.session(tags=["slow"])
def tests_airflow(session: nox.Session) -> None:
    """Run the operator in Airflow, and the example DAG in a standalone one, into moto's S3."""
    others = ["jsonschema", "moto[server]", "apache-airflow-providers-openlineage"]
    session.install(".[airflow,cli,cloud]", *group("test"), *others)
    # A skip must not pass for a success.
    session.run("python", "-c", "import airflow, boto3, obstore")
    tests = session.posargs or [
        "tests/components/test_airflow.py",
        "tests/components/test_airflow_standalone.py",
    ]
    options = ["-q", "-rs", "-p", "no:randomly"]
    session.run("python", "-m", "pytest", *options, *tests, env={"PYTHONSAFEPATH": "1"})


@nox.session(tags=["slow"])
def tests_s3(session: nox.Session) -> None:
    """Run against an S3 server that checks signatures and expiry: LocalStack, without Docker.

    The files come from it, and go to buckets in it.
    """
    # The pins of cbor2 and pyopenssl: LocalStack 4.9.2 does not start with later versions.
    session.install(
        ".[all]",
        *group("test"),
        "localstack-core[runtime]==4.9.2",
        "cbor2==5.7.0",
        "pyopenssl==25.1.0",
        "service-identity",
    )
    tests = session.posargs or ["tests/components/test_s3.py", "tests/components/test_buckets.py"]
    session.run("python", "-m", "pytest", "-rs", *tests, env=INSTALLED)


@nox.session(tags=["slow"])
def properties(session: nox.Session) -> None:
    """Test crash and resume as a property, over thousands of random sequences."""
    session.install("-e", ".[all]", *group("test"))
    tests = session.posargs or ["tests/integration/test_crash_property.py"]
    env = {
        "SENDGRID_EXPORTS_EXAMPLES": os.environ.get("SENDGRID_EXPORTS_EXAMPLES", "3000"),
        "PYTEST_ADDOPTS": "--timeout=0",
    }
    session.run("python", "-m", "pytest", "-q", *tests, env=env)


@nox.session(tags=["slow"])
def kill(session: nox.Session) -> None:
    """Kill a real process with SIGKILL at random moments, over and over."""
    session.install("-e", ".[all]", *group("test"))
    tests = ["--timeout=0", "-q", "-s", "tests/crash", *session.posargs]
    session.run("python", "-m", "pytest", *tests)


@nox.session(tags=["slow"])
def load(session: nox.Session) -> None:
    """Export a thousand accounts on a fake clock, with 256 descriptors."""
    session.install("-e", ".[all]", *group("test"))
    session.run("python", "-m", "pytest", "-q", "-s", "tests/load", *session.posargs)


@nox.session(tags=["slow"])
def benchmarks_accounts(session: nox.Session) -> None:
    """Measure twenty accounts at once against one export of the same bytes."""
    session.install(".[fast]")
    session.run("python", "-m", "tests.benchmarks.accounts", *session.posargs)


@nox.session(venv_backend="none")
def debian(session: nox.Session) -> None:
    """Install the programs that components and benchmarks use (Debian, as root)."""
    packages = ["nginx", "libnginx-mod-http-headers-more-filter", "openssl", "mount"]
    packages += ["curl", "aria2", "gcc", "libc6-dev", "iproute2"]
    session.run("apt-get", "-q", "update", external=True)
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    session.run("apt-get", "-q", "-y", "install", *packages, external=True, env=env)


@nox.session(tags=["slow"])
def benchmarks(session: nox.Session) -> None:
    """Measure against curl, aria2 and other libraries: `-- --quick` takes a few minutes."""
    session.install(".[fast]", "matplotlib")
    for peer in ("httpx", "pypdl", "parfive"):
        try:
            session.install(peer)
        except nox.command.CommandFailed:
            session.warn(f"{peer} can't be installed, and will be missing in the table")
    data = session.create_tmp()
    session.run("python", "-m", "tests.benchmarks", "--data", data, *session.posargs)


@nox.session(tags=["slow"])
def benchmarks_contents(session: nox.Session) -> None:
    """Measure the reading of contacts against csv, polars, pyarrow and DuckDB."""
    session.install(".[compare,fast]", "polars")
    session.run("python", "tests/benchmarks/contents.py", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, check what an index would show, install the wheel, and import it."""
    session.install("build", "twine")
    target = Path(session.create_tmp(), "dist")
    shutil.rmtree(target, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(target), ".")
    [wheel] = map(str, target.glob("*.whl"))
    session.run("twine", "check", "--strict", wheel, *map(str, target.glob("*.tar.gz")))
    session.install("--force-reinstall", wheel)
    session.run("python", "-I", "-c", "import sendgrid_exports.testing as t; print(t.__file__)")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the API reference into build/docs; a reference to a missing name fails."""
    session.install(".[all]", *group("test"), *group("docs"))
    session.run("python", "-m", "pytest", "-q", "tests/unit/test_references.py", env=INSTALLED)
    modules = ["sendgrid_exports", "sendgrid_exports.testing"]
    modules += ["sendgrid_exports.integrations.opentelemetry"]
    pdoc = ["--docformat", "google", "--template-directory", ".github/pdoc"]
    pdoc += ["--output-directory", "build/docs", *modules]
    session.run("python", "-W", "error", "-m", "pdoc", *pdoc)


@nox.session
def screenshot(session: nox.Session) -> None:
    """Draw .github/progress.svg again from a real run: `-- demo --files 6`, say."""
    session.install(".[cli]", "pyte")
    session.run("python", ".github/screenshot.py", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Back up 200,000 contacts from the embedded server."""
    session.install(".")
    session.run("python", "examples/backup_contacts.py", *session.posargs)


@nox.session
def live(session: nox.Session) -> None:
    """Back up the contacts of a real account: needs SENDGRID_API_KEY."""
    if not os.environ.get("SENDGRID_API_KEY"):
        session.skip("SENDGRID_API_KEY is not set")
    session.install(".")
    session.run("python", "examples/backup_contacts.py", *session.posargs)
