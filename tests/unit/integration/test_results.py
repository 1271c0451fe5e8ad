"""What CI keeps of a run."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.errors import CheckoutBusyError
from pipeline.integration.results import Counts, Results

PROPERTIES = {"database.image": "gvenzl/oracle-free:23", "database.standin": "false"}
SUITE = (
    '<testsuite name="s"><testcase name="a"/><testcase name="b"><failure/></testcase><testcase name="c"><skipped/></testcase></testsuite>'
)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    found = Results(tmp_path, tmp_path / ".pipeline")
    found.begin()
    return found


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def collect(results: Results, *globs: str) -> Counts:
    return results.collect(globs, PROPERTIES, lambda text: text.replace(b"Geheim1", b"***"))


def test_every_suite_says_which_database_it_ran_against(tmp_path: Path, results: Results) -> None:
    write(tmp_path / "a/target/TEST-x.xml", f"<testsuites>{SUITE}{SUITE}</testsuites>")
    counts = collect(results, "*/target/TEST-*.xml")
    suites = list(ElementTree.parse(results.folder / "a/target/TEST-x.xml").iter("testsuite"))
    assert len(suites) == 2
    for suite in suites:
        assert {entry.get("name"): entry.get("value") for entry in suite.iterfind("properties/property")} == PROPERTIES
        assert suite[0].tag == "properties"
    assert (counts.tests, counts.passed, counts.failed, counts.skipped) == (6, 2, 2, 2)


@pytest.mark.parametrize(
    ("suite", "after"),
    [
        ('time="9" timestamp="2026-11-23T10:00:00+00:00"', 3.0),  # the tests before it took 1 s and 2 s
        ('time="4" timestamp="2026-11-23T10:00:00+00:00"', 0.0),  # in parallel: it may have been among the first
        ('timestamp="2026-11-23T10:00:00+00:00"', 0.0),
        ('time="9" timestamp="yesterday"', None),
        ('time="1,009.0"', None),
    ],
)
def test_when_the_first_test_failed_is_never_guessed_too_late(tmp_path: Path, results: Results, suite: str, after: float | None) -> None:
    cases = '<testcase time="1"/><testcase time="2"/><testcase time="5"><error/></testcase><testcase time="0.1"><failure/></testcase>'
    write(tmp_path / "r.xml", f"<testsuites><testsuite {suite}>{cases}</testsuite>{SUITE.replace('<failure/>', '')}</testsuites>")
    found = collect(results, "*.xml").first_failure
    assert found is not None
    if after is None:  # without a start of its own it is what the file's time leaves room for
        assert found <= (tmp_path / "r.xml").stat().st_mtime - 5.1
    else:
        assert found == datetime(2026, 11, 23, 10, tzinfo=UTC).timestamp() + after


def test_where_nothing_failed_there_is_no_first_failure(tmp_path: Path, results: Results) -> None:
    write(tmp_path / "r.xml", '<testsuite time="1"><testcase time="1"/></testsuite>')
    assert collect(results, "*.xml").first_failure is None


def test_properties_a_suite_has_stay(tmp_path: Path, results: Results) -> None:
    write(
        tmp_path / "r.xml",
        '<testsuite><properties><property name="java" value="21"/><property name="database.image" value="?"/></properties></testsuite>',
    )
    collect(results, "*.xml")
    collected = ElementTree.parse(results.folder / "r.xml").iterfind("properties/property")
    assert {entry.get("name"): entry.get("value") for entry in collected} == {"java": "21", **PROPERTIES}


def test_reports_of_the_same_name_in_two_modules_both_stay(tmp_path: Path, results: Results) -> None:
    for module in ("a", "b"):
        write(tmp_path / module / "TEST-x.xml", SUITE)
    assert collect(results, "**/TEST-*.xml").files == 2


def test_yesterday_s_report_is_not_today_s_result(tmp_path: Path) -> None:
    write(tmp_path / "old.xml", SUITE)
    os.utime(tmp_path / "old.xml", ns=(1, 1))
    results = Results(tmp_path, tmp_path / ".pipeline")
    write(results.folder / "left.xml", SUITE)
    results.begin()
    assert str(collect(results, "*.xml")) == "no JUnit XML was written (see `itest.junit`)"


def test_one_run_has_the_results_and_another_is_told_which(tmp_path: Path, results: Results) -> None:
    write(results.folder / "left.xml", SUITE)
    with results.claim("invoke itest"):
        assert not list(results.folder.iterdir())
        write(results.folder / "mine.xml", SUITE)
        another = Results(tmp_path, tmp_path / ".pipeline")
        assert another.are_claimed()
        claimed = rf"`invoke itest` \(process {os.getpid()}\) is running in this checkout"
        with pytest.raises(CheckoutBusyError, match=claimed), another.claim("invoke run-tests"):
            pass
        assert (results.folder / "mine.xml").exists()
        with Results(tmp_path, tmp_path / "another").claim("invoke itest"):
            pass
    assert not another.are_claimed()
    with another.claim("invoke run-tests"):
        pass


def test_a_run_that_was_killed_claims_nothing(tmp_path: Path, results: Results) -> None:
    process = os.fork()
    if not process:
        with results.claim("invoke itest"):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    assert (tmp_path / ".pipeline/itest.lock").read_text()
    with results.claim("invoke itest"):
        pass


def test_reports_written_to_the_results_folder_itself_count(results: Results) -> None:
    write(results.folder / "pytest.xml", SUITE)
    assert collect(results).tests == 3
    assert "database.image" in (results.folder / "pytest.xml").read_text()


def test_half_a_report_is_kept_and_named(tmp_path: Path, results: Results) -> None:
    write(tmp_path / "killed.xml", "<testsuite><testcase")
    counts = collect(results, "*.xml")
    assert counts.unreadable == ("killed.xml",)
    assert "unreadable: killed.xml" in str(counts)


def test_a_password_in_a_report_is_masked(tmp_path: Path, results: Results) -> None:
    write(tmp_path / "a.xml", "<testsuite><system-out>Geheim1</system-out></testsuite>")
    write(tmp_path / "b.xml", "<testsuite>Geheim1")
    collect(results, "*.xml")
    for name in ("a.xml", "b.xml"):
        assert "Geheim1" not in (results.folder / name).read_text()


def test_the_summary_is_a_table(results: Results) -> None:
    results.write_summary([("result", "failed:\na | b")])
    assert "| result | failed:<br>a \\| b |" in (results.folder / "summary.md").read_text()


def test_a_start_that_failed_is_a_report_too(results: Results) -> None:
    results.write_failure("start of the database: listener", "it stayed silent\x00\nits log <end>", PROPERTIES)
    suite = ElementTree.parse(results.folder / "pipeline.xml").getroot()
    (case,) = suite.iter("testcase")
    error = case.find("error")
    assert (suite.get("errors"), case.get("name")) == ("1", "start of the database: listener")
    assert error is not None
    assert (error.get("message"), error.text) == ("it stayed silent?", "it stayed silent?\nits log <end>")
    assert {entry.get("name"): entry.get("value") for entry in suite.iterfind("properties/property")} == PROPERTIES
