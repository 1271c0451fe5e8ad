"""invoke keep-alive, reap: how long sessions live, and what is left of those that are over."""

from __future__ import annotations

from invoke.context import Context

from pipeline.tasks.command import command, read_project, say

LONGEST = 24.0 * 31  # hours


@command(
    help={
        "session": "A session of that key, instead of the one of this checkout and CI build.",
        "hours": "For how long from now on. Default: `itest.lease` of pipeline.yaml.",
    }
)
def keep_alive(_context: Context, session: str = "", hours: str = "") -> None:
    """Let the database that start-oracle started live on; run-tests does that by itself. Example: invoke keep-alive --hours 2"""
    from pipeline.errors import ConfigurationError
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    try:
        lasting = float(hours) if hours else bench.config.itest.lease
    except ValueError:
        lasting = 0.0
    if not 0 < lasting <= LONGEST:
        raise ConfigurationError(f"--hours {hours}: a lease lasts up to {LONGEST:g} hours", "To end the session: invoke stop-oracle")
    found = bench.own_session(session)
    bench.bracket.keep_alive(found, lasting * 3600)
    say(f"session {found.key}: lives for {lasting:g} h from now on, unless longer was asked for before")


@command(help={"dry-run": "Only say what would be removed, and what lives."})
def reap(_context: Context, dry_run: bool = False) -> None:
    """Remove what is left of this project's sessions that are over or whose process is gone, never the living."""
    from pipeline.adapters.docker_engine import DockerEngine
    from pipeline.sessions import find_things, sweep

    engine, project = DockerEngine(), read_project().project
    if dry_run:
        for thing in find_things(engine, project):
            what = f"{thing.kind} {thing.name} (session {thing.session})"
            say(f"would remove {what}: {thing.over}" if thing.over else f"{what} lives")
        return
    swept = sweep(engine, project)
    for thing in swept:
        say(f"removed {thing.kind} {thing.name} (session {thing.session}): {thing.over}")
    if not swept:
        say("nothing to remove")
