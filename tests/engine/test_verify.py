"""The conformance suite on images that keep their contract, and on images that do not."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.databases.contract import CONTRACTS
from pipeline.databases.verify import Report, Result, Row, write_report
from pipeline.tasks.verifying import LeasingEngine
from tests.engine.checkouts import Checkout
from tests.engine.conftest import own_image, wait_for


@pytest.fixture(scope="module")
def postgres_image() -> str:
    return own_image("postgres")


@pytest.fixture
def faulty_image(postgres_image: str) -> Iterator[Callable[[str], str]]:
    """Makes an image that runs a shell script in place of its entrypoint, which the script may run."""
    made: list[str] = []

    def make(script: str) -> str:
        made.append(f"pipeline-test/unfaithful:{uuid.uuid4().hex[:10]}")
        dockerfile = (
            f"FROM {postgres_image}\nRUN cp -a /var/lib/postgresql/data /tmp/empty\n"
            f"HEALTHCHECK NONE\nENTRYPOINT {json.dumps(['/bin/bash', '-c', script])}\n"
        )
        subprocess.run(["docker", "build", "--quiet", "--tag", made[-1], "-"], input=dockerfile.encode(), check=True, capture_output=True)
        return made[-1]

    yield make
    for image in made:
        subprocess.run(["docker", "image", "rm", "--force", image], check=False, capture_output=True)


def results(out: str) -> dict[str, str]:
    document: dict[str, Any] = json.loads(out)
    return {row["check"]: row["result"] for row in document["rows"]}


def written(checkout: Checkout) -> str:
    """The document of the one report."""
    (path,) = (checkout.root / ".pipeline/verify").glob("*.json")
    return path.read_text()


def own_contract(checkout: Checkout, old: str, new: str) -> None:
    """A contract of the project's own: that of the image, but for one thing."""
    text = (CONTRACTS / "postgres.yaml").read_text()
    assert old in text
    checkout.write("mine.yaml", text.replace(old, new))


def test_the_image_of_this_project_keeps_its_contract(make_checkout: Callable[[], Checkout], postgres_image: str) -> None:
    checkout = make_checkout()
    checkout.configure("example.com/not/this:1")  # the contract brings its engine with it
    ended = checkout.invoke("db.verify", "--image", postgres_image, "--contract", "postgres", "--json")
    assert ended.code == 0, ended.err
    assert set(results(ended.out).values()) == {"passed"}
    checkout.assert_nothing_left()
    report = next((checkout.root / ".pipeline/verify").glob("*.md")).read_text()
    assert "| stops cleanly and in time | passed |" in report


def test_the_stand_in_keeps_the_contract_of_the_community_images(make_checkout: Callable[[], Checkout], standin_image: str) -> None:
    checkout = make_checkout()
    checkout.configure(standin_image)
    ended = checkout.invoke("db.verify")
    assert ended.code == 0, ended.err
    document = written(checkout)
    assert set(results(document).values()) == {"passed"}
    assert json.loads(document)["standin"] is True
    assert "It is a stand-in" in next((checkout.root / ".pipeline/verify").glob("*.md")).read_text()


def test_what_the_contract_does_not_have_is_not_called_passed(make_checkout: Callable[[], Checkout], postgres_image: str) -> None:
    checkout = make_checkout()
    checkout.configure(postgres_image, "engine: postgres")
    ended = checkout.invoke("db.verify", "--image", postgres_image, "--contract", "postgres-official")
    assert ended.code == 0, ended.err
    found = results(written(checkout))
    assert {check for check, result in found.items() if result == "not supported"} == {
        "start scripts run before anybody gets in",
        "can be baked",
    }


def test_an_image_that_shows_a_password_and_does_not_stop_fails_for_just_that(
    make_checkout: Callable[[], Checkout], faulty_image: Callable[[str], str]
) -> None:
    checkout = make_checkout()
    checkout.configure(faulty_image("trap '' TERM; cat /run/verify/verifier; exec docker-entrypoint.sh"))
    own_contract(checkout, "stop: {seconds: 30}", "stop: {seconds: 1}")
    ended = checkout.invoke("db.verify", "--contract", "mine.yaml", "--json")
    assert ended.code == 46
    found = results(ended.out)
    assert [check for check, result in found.items() if result == "failed"] == ["no password in the log", "stops cleanly and in time"]
    assert [check for check, result in found.items() if result == "not reached"] == list(found)[-4:]
    assert "it still ran 1 s after TERM" in ended.out
    checkout.assert_nothing_left()


def test_an_image_that_lets_people_in_too_early_and_forgets_fails_for_just_that(
    make_checkout: Callable[[], Checkout], faulty_image: Callable[[str], str]
) -> None:
    forget = "rm -rf /var/lib/postgresql/data/*; cp -a /tmp/empty/. /var/lib/postgresql/data"
    late = "(sleep 3; bash /docker-entrypoint-startdb.d/900-verify.sh) & mkdir /tmp/none"
    checkout = make_checkout()
    checkout.configure(faulty_image(f"{forget}; {late}; docker-entrypoint.sh & trap 'kill -TERM $!' TERM; wait; wait"))
    own_contract(checkout, "start: /docker-entrypoint-startdb.d", "start: /tmp/none")
    ended = checkout.invoke("db.verify", "--contract", "mine.yaml", "--json")
    assert ended.code == 46
    found = results(ended.out)
    assert [check for check, result in found.items() if result != "passed"] == [
        "start scripts run before anybody gets in",
        "the data is kept",
        "init scripts run once, start scripts each time",
    ]


def test_an_image_that_is_no_database_is_told_at_once(make_checkout: Callable[[], Checkout], faulty_image: Callable[[str], str]) -> None:
    checkout = make_checkout()
    checkout.configure(faulty_image("echo 'no space left'; exit 7"))
    ended = checkout.invoke("db.verify", "--contract", "postgres", "--json")
    assert ended.code == 46
    assert "the container ended with exit code 7: no space left" in ended.out
    assert set(list(results(ended.out).values())[1:]) == {"not reached"}
    checkout.assert_nothing_left()


def test_what_the_suite_makes_ends_with_its_lease_if_nobody_else_ends_it(faulty_image: Callable[[str], str]) -> None:
    engine = LeasingEngine(1.0)
    name = f"pipeline-test-verify-{uuid.uuid4().hex[:8]}"
    image = faulty_image("sleep 600")
    container = engine.create_container(name=name, image=image, labels={"pipeline.test": "verify"}, environment={}, publish=5432)
    assert container
    try:
        for _ in range(2):  # it starts again, with its lease anew
            engine.start_container(container)
            wait_for(lambda: (found := engine.find_container(container)) and found.state == "exited", "its lease is over")
    finally:
        engine.remove_container(container)


def test_a_report_is_a_table_and_a_document(tmp_path: Path) -> None:
    row = Row("starts", Result.FAILED, "a | b\nc")
    path = write_report(Report("example.com/team/db:1", "sha256:1", "postgres", "mine", False, (row,)), tmp_path)
    assert path == tmp_path / "verify" / "db-1.md"
    assert "| starts | failed | a \\| b c |" in path.read_text()
    assert json.loads(path.with_suffix(".json").read_text())["rows"] == [{"check": "starts", "result": "failed", "seen": "a | b\nc"}]
