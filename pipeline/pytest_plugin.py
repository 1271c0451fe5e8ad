"""Fixtures for tests that need a database: `database`, `schema`, `connection`. See docs/testing.md.

A test says what it needs by a marker: `@pytest.mark.database_state("shared" | "worker" | "test" | "rollback")`. Nothing is
imported, started or changed before a test asks for one of the fixtures.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pipeline.pytest_states import RunDatabase, TestState, Worker

MODES = ("shared", "worker", "test", "rollback")
ISOLATIONS = ("schema", "container")
MARKER = "database_state"
_OWN_STATE = ("worker", "test", "rollback")
_STATE = "_database_state"  # the fixture that all others of a state come from
_KEY = "pipeline_run"  # what a worker of pytest-xdist is told
_OWNER = "pipeline_owner"
_RUN = pytest.StashKey[str]()
_WORKER = pytest.StashKey["Worker"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("pipeline", "a database for tests (fixtures database, schema, connection)")
    group.addoption("--database-state", choices=MODES, help="what a test gets that has no marker of its own (default: test)")
    group.addoption("--database-isolation", choices=ISOLATIONS, help="instead of `itest.isolation` in pipeline.yaml")
    group.addoption("--database-image", metavar="IMAGE", help="instead of `itest.image` in pipeline.yaml, where no session runs")
    parser.addini(MARKER, f"what a test gets that has no marker of its own: {', '.join(MODES)}", default="test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARKER}(mode): which database state the test gets: {', '.join(MODES)}; see docs/testing.md")
    given = getattr(config, "workerinput", {})  # what the process that distributes the tests has told this worker
    config.stash[_RUN] = given.get(_KEY) or secrets.token_hex(6)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """A worker of pytest-xdist is about to start: it is to know which run it belongs to."""
    from pipeline.sessions import current_owner

    node.workerinput[_KEY] = node.config.stash[_RUN]
    node.workerinput[_OWNER] = current_owner()


def pytest_report_header(config: pytest.Config) -> str | None:
    from pipeline.pytest_session import describe

    return describe(os.environ, config.rootpath) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Before the first test of any worker: keep the prepared state, where a test is going to need a copy of it.

    pytest-xdist hands out no test before every worker has collected its own, which this is part of.
    """
    config = session.config
    if config.getoption("collectonly") or (session.testsfailed and not config.getoption("continue_on_collection_errors")):
        return
    if any(_mode(item, config)[0] in _OWN_STATE for item in session.items if _STATE in getattr(item, "fixturenames", ())):
        from pipeline.errors import PipelineError

        with contextlib.suppress(PipelineError):  # what pipeline.yaml lacks is said to the first test that asks
            _worker(config).keep_prepared()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Passwords that this run has made are kept out of what is shown and written down, as `invoke run-tests` does with its own."""
    report = yield
    worker = item.config.stash.get(_WORKER, None)
    if worker is not None and worker.passwords:
        from pipeline.pytest_states import mask

        mask(report, worker.passwords)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """The states of this process go, after the last fixture; pytest-xdist waits for this, but not long for what comes later."""
    if (worker := session.config.stash.get(_WORKER, None)) is not None:
        worker.close()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Everything that this process began is taken away; the process that distributes the tests takes the database away."""
    if (worker := config.stash.get(_WORKER, None)) is not None:
        worker.close()
    if _RUN in config.stash and not hasattr(config, "workerinput"):
        from pathlib import Path
        from tempfile import gettempdir

        folder = Path(gettempdir(), f"pipeline-pytest-{config.stash[_RUN]}")
        if (folder / "session").exists():
            from pipeline.pytest_run import end_run

            end_run(folder)


@pytest.fixture(scope="session")
def _database_worker(request: pytest.FixtureRequest) -> Worker:
    from pipeline.pytest_states import failing_clearly

    with failing_clearly():
        return _worker(request.config)


@pytest.fixture
def _database_state(request: pytest.FixtureRequest, _database_worker: Worker) -> Iterator[TestState]:
    """The state of this test. Where it was `rollback`, it is looked at afterwards whether something stayed all the same."""
    from pipeline.pytest_states import failing_clearly

    mode, said_by = _mode(request.node, request.config)
    if mode not in MODES:
        pytest.fail(f"{said_by} says {mode!r}: it takes one of {', '.join(map(repr, MODES))}", pytrace=False)
    with failing_clearly():
        state = _database_worker.begin(mode)
    yield state
    # Who asks for the address may have logged in with it.
    _database_worker.end(mode, state, "schema" in request.fixturenames)


@pytest.fixture(scope="session")
def database(_database_worker: Worker) -> RunDatabase:
    """The one database of this run: its `address`, `account`, `dsn`, `jdbc_url`; every worker's tests see the same content."""
    from pipeline.pytest_states import failing_clearly

    with failing_clearly():
        return _database_worker.database()


@pytest.fixture
def schema(_database_state: TestState) -> TestState:
    """The database state of this test: its `address`, `account`, `dsn`, `jdbc_url`, and `environment` for a program to be started."""
    return _database_state


@pytest.fixture
def connection(_database_worker: Worker, _database_state: TestState) -> Iterator[Any]:
    """An open connection (PEP 249) to the test's database state, with the driver of its kind; closed, not committed, afterwards."""
    from pipeline.pytest_states import failing_clearly

    with failing_clearly():
        connection = _database_worker.connect(_database_state)
    yield connection
    _database_worker.disconnect(_database_state, connection)


def _mode(item: pytest.Item, config: pytest.Config) -> tuple[str, str]:
    """Which state the test gets, and what says so: the nearest marker, else the option, else the ini file."""
    marker = item.get_closest_marker(MARKER)
    if marker is None:
        return str(config.getoption("--database-state") or config.getini(MARKER)), f"'{MARKER}' in the ini file"
    return str(marker.args[0]) if len(marker.args) == 1 and not marker.kwargs else "", f"the marker {MARKER} of {item.name}"


def _worker(config: pytest.Config) -> Worker:
    """This process's worker, made when it is first needed. Raises ConfigurationError."""
    worker = config.stash.get(_WORKER, None)
    if worker is None:
        from pipeline.pytest_states import Worker

        given: dict[str, str] = getattr(config, "workerinput", {})
        worker = config.stash[_WORKER] = Worker(
            config.rootpath,
            config.stash[_RUN],
            given.get(_OWNER, ""),
            given.get("workerid", "main"),
            config.getoption("--database-image") or "",
            config.getoption("--database-isolation") or "",
        )
    return worker
