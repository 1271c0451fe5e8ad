"""invoke db.bake, db.verify, db.shell, db.logs: a prepared database as an image, what an image does, a look into the one that runs."""

from __future__ import annotations

import json as json_module
import os
import sys

from invoke.context import Context

from pipeline.errors import VerificationError
from pipeline.tasks.build_server import refuse_fork
from pipeline.tasks.command import command, say

SESSION = {"session": "A session of that key, instead of the one of this checkout and CI build."}
IMAGE = {"image": "A database image, instead of the one in pipeline.yaml."}


@command(
    name="bake",
    help={
        **IMAGE,
        "push": "Publish the image in the registry, too.",
        "json": "Print one JSON document on stdout and nothing else.",
    },
)
def db_bake(_context: Context, image: str = "", push: bool = False, json: bool = False) -> None:
    """Make an image of the prepared database.

    Starts take it instead of preparing again. Example: invoke db.bake --push
    """
    from pipeline.tasks.testing import open_bench

    if push:
        refuse_fork(os.environ)
    bench = open_bench()
    recipe, outcome = bench.baked.bake(bench.prepare_run(image, tests=False, baked=False), bench.new_session())
    say(f"bake: made in {outcome.seconds:.1f} s: {recipe.reference}" if outcome else f"bake: there already: {recipe.reference}")
    digest, pushed = bench.baked.push(recipe.reference) if push else ("", False)
    if push:
        say(f"bake: {'pushed' if pushed else 'published already'}: {digest}")
    if json:
        document = {
            "reference": str(recipe.reference),
            "fingerprint": recipe.fingerprint.value,
            "inputs": dict(recipe.fingerprint.inputs),
            "made": outcome is not None,
            "pushed": pushed,
            "digest": digest,
        }
        print(json_module.dumps(document, indent=2))


@command(
    name="verify",
    help={
        **IMAGE,
        "contract": "The kind of image: a contract's name or .yaml file, instead of the one in pipeline.yaml.",
        "json": "Print one JSON document on stdout and nothing else.",
    },
)
def db_verify(_context: Context, image: str = "", contract: str = "", json: bool = False) -> None:
    """Report what a database image does of its contract.

    Example: invoke db.verify --image postgres --contract postgres
    """
    from pipeline.tasks.verifying import verify

    report = verify(image, contract, say)
    if json:
        print(json_module.dumps(report.as_json(), indent=2))
    if report.failed:
        raise VerificationError(f"{report.image} failed: {', '.join(report.failed)}", "What was seen stands in the report.")


@command(name="shell", help={**SESSION, "system": "As the administrator, not as the application's user."})
def db_shell(_context: Context, session: str = "", system: bool = False) -> None:
    """SQL on the database of start-oracle.

    Statements may come from standard input. Example: invoke db.shell --system
    """
    from pipeline.tasks.terminal import open_shell
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    if not open_shell(bench, bench.own_session(session), system):
        sys.exit(1)


@command(name="logs", help={**SESSION, "follow": "Go on with what it writes from now on, until it ends or Ctrl-C."})
def db_logs(_context: Context, session: str = "", follow: bool = False) -> None:
    """Print that database's log, without its passwords.

    Example: invoke db.logs --follow
    """
    from pipeline.tasks.testing import open_bench

    bench = open_bench()
    for line in bench.bracket.read_log(bench.own_session(session), follow):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
