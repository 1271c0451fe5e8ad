"""invoke start-oracle, run-tests, stop-oracle, itest"""

from __future__ import annotations

import json as json_module

from invoke.context import Context

from pipeline.tasks.command import command, say

SESSION = {"session": "A session of that key, instead of the one of this checkout and CI build."}
IMAGE = {"image": "A database image, instead of the one in pipeline.yaml."}

WORKERS = {"workers": "So many forks of the tests get a database state of their own: DB_1_JDBC_URL and so on."}


@command(
    help={
        **SESSION,
        **IMAGE,
        "json": "Print one JSON document on stdout and nothing else.",
        "reuse": "A clean one each time, at once: made from a baked image (baked first where there is none), the next one kept warm.",
    }
)
def start_oracle(_context: Context, session: str = "", image: str = "", json: bool = False, reuse: bool = False) -> None:
    """Start a database for this checkout and CI build, or find the one that runs. Example: invoke start-oracle --json"""
    from pipeline.tasks.testing import as_json, open_bench

    bench = open_bench()
    run, own = bench.prepare_run(image, tests=False), bench.own_session(session)
    database = bench.bracket.start_clean(bench.baked.need(run, bench.new_session()), own) if reuse else bench.bracket.start(run, own)
    if json:
        print(json_module.dumps(as_json(database), indent=2))


@command(help={**SESSION, **WORKERS})
def run_tests(_context: Context, session: str = "", workers: int = 0) -> None:
    """Run the test command against the database that start-oracle started."""
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    with bench.results.claim("invoke run-tests"):
        bench.bracket.run_tests(bench.prepare_tests(workers), bench.own_session(session))


@command(help=SESSION)
def stop_oracle(_context: Context, session: str = "") -> None:
    """Stop the database that start-oracle started; nothing to stop is fine."""
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    stopped = bench.bracket.stop(bench.config.state, bench.own_session(session))
    say("database: stopped" if stopped else "database: there was none to stop")


@command(help={**IMAGE, **WORKERS})
def itest(_context: Context, image: str = "", workers: int = 0) -> None:
    """Start a database, run the tests against it, stop it, whatever happens. Example: invoke itest"""
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    with bench.results.claim("invoke itest"):
        bench.bracket.whole(bench.with_workers(bench.prepare_run(image), workers), bench.new_session())
