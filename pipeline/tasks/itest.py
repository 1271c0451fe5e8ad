"""invoke start-oracle, run-tests, stop-oracle, itest"""

from __future__ import annotations

import json as json_module

from invoke.context import Context

from pipeline.tasks.command import command, refuse_others, say

SESSION = {"session": "A session of that key, instead of the one of this checkout and CI build."}
IMAGE = {"image": "A database image, instead of the one in pipeline.yaml."}

WORKERS = {"workers": "So many forks of the tests get a database state of their own: DB_1_JDBC_URL and so on."}


@command(
    help={
        **SESSION,
        **IMAGE,
        "json": "Print one JSON document on stdout and nothing else.",
        "with-caller": "Stop it when the program that called this ends, however that happens: for Maven, which has no `finally`.",
        "keep": "Start none; let the one that runs live for so many hours from now. `run-tests` renews it by itself.",
        "reuse": "A clean one each time, at once: made from a baked image (baked first where there is none), the next one kept warm.",
    }
)
def start_oracle(
    _context: Context,
    session: str = "",
    image: str = "",
    json: bool = False,
    with_caller: bool = False,
    keep: str = "",
    reuse: bool = False,
) -> None:
    """Start this checkout's database, or find the one that runs.

    There is one for each checkout and CI build. Examples: invoke start-oracle --json, invoke start-oracle --keep 8
    """
    from pipeline.caller import read_caller
    from pipeline.tasks.testing import as_json, open_bench

    if keep:
        refuse_others("--keep", image=image, json=json, with_caller=with_caller, reuse=reuse)
    bench, caller = open_bench(), read_caller()
    if keep:
        bench.keep_alive(bench.own_session(session), keep)
        return
    run, own = bench.prepare_run(image, tests=False), bench.own_session(session)
    database = bench.bracket.start_clean(bench.baked.need(run, bench.new_session()), own) if reuse else bench.bracket.start(run, own)
    if with_caller and (database.made or reuse):
        bench.end_with(caller, database)
    elif with_caller:
        say("database: it ran before, and goes on when the caller has ended")  # whoever started it decides
    if json:
        print(json_module.dumps(as_json(database), indent=2))


@command(help={**SESSION, **WORKERS})
def run_tests(_context: Context, session: str = "", workers: int = 0) -> None:
    """Run the tests on the database of start-oracle.

    Example: invoke run-tests --workers 4
    """
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    with bench.results.claim("invoke run-tests"):
        bench.bracket.run_tests(bench.prepare_tests(workers), bench.own_session(session))


@command(help=SESSION)
def stop_oracle(_context: Context, session: str = "") -> None:
    """Stop the database of start-oracle, if there is one.

    Example: invoke stop-oracle
    """
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    stopped = bench.bracket.stop(bench.config.state, bench.own_session(session))
    say("database: stopped" if stopped else "database: there was none to stop")


@command(help={**IMAGE, **WORKERS})
def itest(_context: Context, image: str = "", workers: int = 0) -> None:
    """Start a database, run the tests, stop it, whatever happens.

    Example: invoke itest --workers 4
    """
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    with bench.results.claim("invoke itest"):
        bench.bracket.whole(bench.with_workers(bench.prepare_run(image), workers), bench.new_session())
