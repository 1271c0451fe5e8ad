"""The address as shells and Java read it."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.integration.address import _escaped, address_files, remove_address_files, write_address_files

VARIABLES = {"DB_HOST": "127.0.0.1", "DB_PASSWORD": "it's $HOME `x` \"\\ ", "DB_JDBC_URL": "jdbc:oracle:thin:@//h:1/s"}


def test_a_shell_reads_back_exactly_what_was_meant(tmp_path: Path) -> None:
    write_address_files(tmp_path, "own-1", VARIABLES)
    script = f'. "{tmp_path}/database.sh"; printf "%s\\0%s\\0%s" "$DB_HOST" "$DB_PASSWORD" "$DB_JDBC_URL"'
    said = subprocess.run(["sh", "-c", script], capture_output=True, check=True, text=True).stdout
    assert said.split("\0") == list(VARIABLES.values())


def test_files_are_the_owner_s_only_also_where_an_open_one_lay(tmp_path: Path) -> None:
    (tmp_path / "database.sh").write_text("old")
    (tmp_path / "database.sh").chmod(0o644)
    write_address_files(tmp_path, "own-1", VARIABLES)
    for path in address_files(tmp_path, "own-1"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 2


def test_sessions_have_files_of_their_own(tmp_path: Path) -> None:
    write_address_files(tmp_path, "itest-1", VARIABLES)
    write_address_files(tmp_path, "../odd key", VARIABLES)
    remove_address_files(tmp_path, "itest-1")
    remove_address_files(tmp_path, "itest-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["database-.._odd_key.properties", "database-.._odd_key.sh"]


@pytest.mark.parametrize(
    ("value", "written"), [("a\\b", "a\\\\b"), (" a", "\\ a"), ("ä€", "\\u00e4\\u20ac"), ("a\nb", "a\\nb"), ("😀", "\\ud83d\\ude00")]
)
def test_properties_are_escaped_as_java_wants(value: str, written: str) -> None:
    assert _escaped(value) == written


@given(st.text())
def test_java_reads_back_any_value(value: str) -> None:
    assert _java_value(_escaped(value)) == value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def _java_value(line: str) -> str:
    """What java.util.Properties.load makes of a value (its Javadoc): white space in front skipped, escapes undone."""
    assert line.isascii()
    assert not {"\n", "\r"} & set(line)
    line, units, place = line.lstrip(" \t\f"), [], 0
    while place < len(line):
        sign = line[place]
        if sign == "\\":
            place += 1
            sign = line[place]
            if sign == "u":
                units.append(int(line[place + 1 : place + 5], 16))
                place += 5
                continue
            sign = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}.get(sign, sign)
        units.append(ord(sign))
        place += 1
    return b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be", "surrogatepass")
