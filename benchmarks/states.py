"""A database state for each worker: how long it takes to get one, and to have a clean one again, with 100 tables."""

from __future__ import annotations

import os
import secrets
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.cases import DATABASE_DEADLINE, Outcome
from benchmarks.measure import BenchmarkError, Series
from benchmarks.stage import LABEL, Stage, docker
from pipeline.databases.contract import load_kind
from pipeline.databases.engine import Connection
from pipeline.databases.states import Server, State, StatefulEngine, StatePool
from pipeline.integration.database import DatabaseHost, DatabaseSpec
from pipeline.integration.interruption import Interruption
from pipeline.pytest_containers import TestcontainersEngine
from pipeline.sessions import current_owner, new_session

TABLES, SEQUENCES, ROWS = 100, 10, 3
CHANGED_TABLES = 5
SAMPLES = 20  # at least, where a 95th percentile is to say something
HAND_OUT = 0.010  # seconds
RESET = {"postgres": 0.1, "oracle-standin": 0.5}  # seconds, by image
ENGINES = {"postgres": ("postgres", "postgres"), "oracle-standin": ("oracle", "oracle-community")}  # image → engine and contract
_MARGIN = "the stand-in is PostgreSQL that speaks Oracle's protocol: these figures say nothing about Oracle"


def measure_states(stage: Stage, rounds: int) -> list[Outcome]:
    """On each database: a hand-out from stock, a reset where rows have changed, and one where tables have."""
    found: list[Outcome] = []
    for image, (name, contract) in ENGINES.items():
        kind = load_kind(name, contract)
        engine = kind.engine
        if not isinstance(engine, StatefulEngine):
            raise BenchmarkError(f"the engine {name} has no states")
        limits = kind.contract.limits
        spec = DatabaseSpec(
            name,
            stage.own_image(image),
            kind.contract.service.default,
            "app",
            "127.0.0.1",
            limits.memory,
            limits.shm,
            limits.processes,
            DATABASE_DEADLINE,
        )
        host = DatabaseHost(TestcontainersEngine(engine, {LABEL: current_owner()}), kind, Interruption(), print)
        session = new_session("benchmark", Path(), 3600, os.environ)
        database = host.start(session, spec, (), lambda _database, _command: 0, lambda _log: None)
        try:
            found += _measure(engine, Server(database.address, database.user, database.administrator), image, max(3, rounds))
        finally:
            docker("rm", "--force", "--volumes", database.container)
    return found


def _measure(engine: StatefulEngine, server: Server, image: str, rounds: int) -> list[Outcome]:
    _run(engine.connect(server.address, server.user), _schema())
    original = engine.make_original(server, f"original_{secrets.token_hex(3)}", _prepare)

    def make_pool(ahead: int) -> StatePool:
        return StatePool(engine.states(server, original, f"bench_{secrets.token_hex(2)}", _prepare), ahead)

    def change(state: State, statements: Sequence[str]) -> None:
        _run(engine.connect(state.address, state.account), statements)

    rows, without_stock = _resets(make_pool(0), change, rounds)
    hand_out, with_stock, behind = _resets_from_stock(make_pool(1), change, rounds)
    what = f"{image}, {TABLES} tables, {SEQUENCES} sequences"
    note = _MARGIN if image == "oracle-standin" else ""
    return [
        *_outcomes(f"hand-out of a state, {what}", HAND_OUT, hand_out, {"from stock": hand_out}, note),
        *_outcomes(
            f"reset, rows of {CHANGED_TABLES + 1} tables changed, {what}", RESET[image], rows, {"no other state in stock": rows}, note
        ),
        *_outcomes(
            f"reset, a table made and one dropped, {what}",
            RESET[image],
            with_stock,
            {"one clean state in stock": with_stock, "until the stock is full again": behind, "no other state in stock": without_stock},
            note,
        ),
    ]


def _outcomes(case: str, goal: float, figure: Series, series: dict[str, Series], note: str) -> list[Outcome]:
    """Its median beside the goal, and its 95th percentile beside the same one."""
    high = statistics.quantiles(figure.values, n=20, method="inclusive")[-1]
    return [
        Outcome(case, "s", goal, figure.median, series, note, f"median of {len(figure.values)}"),
        Outcome(f"{case}, 95th percentile", "s", goal, high, {}, note, f"95th percentile of {len(figure.values)}"),
    ]


def _resets(pool: StatePool, change: Callable[[State, Sequence[str]], None], rounds: int) -> tuple[Series, Series]:
    """What a reset takes where nothing was made ahead: after rows have changed, and after tables have."""
    rows: list[float] = []
    tables: list[float] = []
    state = pool.take()

    def reset(statements: Sequence[str]) -> float:
        nonlocal state
        change(state, statements)
        pool.settle()
        begun = time.perf_counter()
        state = pool.reset(state)
        return time.perf_counter() - begun

    try:
        rows = [reset(_rows_changed()) for _ in range(max(SAMPLES, rounds))]
        tables = [reset(_tables_changed(number)) for number in range(rounds)]
    finally:
        pool.close()
    return Series(tuple(rows)), Series(tuple(tables))


def _resets_from_stock(pool: StatePool, change: Callable[[State, Sequence[str]], None], rounds: int) -> tuple[Series, Series, Series]:
    """Hand-outs; resets after tables have changed; and what they leave to do in the background."""
    hand_outs: list[float] = []
    resets: list[float] = []
    behind: list[float] = []
    try:
        state = pool.reset(pool.take())
        for number in range(rounds):
            change(state, _tables_changed(number))
            pool.settle()
            begun = time.perf_counter()
            state = pool.reset(state)
            resets.append(time.perf_counter() - begun)
            pool.settle()
            behind.append(time.perf_counter() - begun)
        for _ in range(max(SAMPLES, rounds)):
            pool.settle()
            begun = time.perf_counter()
            other = pool.take()
            hand_outs.append(time.perf_counter() - begun)
            pool.give_back(other)
    finally:
        pool.close()
    return Series(tuple(hand_outs)), Series(tuple(resets)), Series(tuple(behind))


def _schema() -> list[str]:
    """SQL that both kinds of database take."""
    statements = []
    for number in range(TABLES):
        parent = f" REFERENCES t{number - 1}(id)" if number % 5 else ""
        statements.append(
            f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, parent INTEGER{parent}, name VARCHAR(30), amount NUMERIC(12,2))"
        )
        statements += [f"INSERT INTO t{number} VALUES ({row}, {row}, 'row {row}', {row}.50)" for row in range(ROWS)]
    return [*statements, *(f"CREATE SEQUENCE s{number}" for number in range(SEQUENCES))]


def _rows_changed() -> list[str]:
    changes = []
    for table in range(CHANGED_TABLES):
        changes += [f"UPDATE t{table} SET name = 'changed'", f"INSERT INTO t{table} (id, name) VALUES ({ROWS + 1}, 'new')"]
    return [*changes, f"DELETE FROM t{TABLES - 1}"]


def _tables_changed(number: int) -> list[str]:
    return [*_rows_changed(), f"CREATE TABLE extra_{number} (id INTEGER)", f"DROP TABLE t{TABLES - 1}"]


def _prepare(connect: Callable[[], Connection], _state: State) -> None:
    _run(connect(), _schema())


def _run(connection: Connection, statements: Sequence[str]) -> None:
    try:
        for statement in statements:
            if (problem := connection.execute(statement)) is not None:
                raise BenchmarkError(f"{statement}: {problem.message}")
        connection.commit()
    finally:
        connection.close()
