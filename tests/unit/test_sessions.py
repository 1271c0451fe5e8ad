"""Sessions: who shares one and who does not, and what is swept."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline import sessions
from pipeline.errors import ConfigurationError
from pipeline.sessions import Session, current_owner, end_session, find_things, new_session, own_session, owner_is_gone, sweep

HOUR = 3600.0
JENKINS = {"BUILD_TAG": "jenkins-ledger-7", "NODE_NAME": "agent-1", "EXECUTOR_NUMBER": "0"}


def key(checkout: str = "/src/ledger", explicit: str = "", **environment: str) -> str:
    return own_session("ledger", Path(checkout), HOUR, environment, explicit).key


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"checkout": "/src/other"}),
        ({}, JENKINS),
        (JENKINS, {**JENKINS, "BUILD_TAG": "jenkins-ledger-8"}),
        (JENKINS, {**JENKINS, "EXECUTOR_NUMBER": "1"}),  # parallel stages share BUILD_TAG
        (JENKINS, {**JENKINS, "NODE_NAME": "agent-2"}),
        ({"bamboo_buildResultKey": "LED-MAIN-JOB1-7"}, {"bamboo_buildResultKey": "LED-MAIN-JOB1-8"}),
        ({"explicit": "a"}, {"explicit": "b"}),
        ({"explicit": "a"}, {}),
        ({"PIPELINE_SESSION": "oracle stage"}, JENKINS),
    ],
)
def test_different_sessions(one: dict[str, str], other: dict[str, str]) -> None:
    assert key(**one) != key(**other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        (JENKINS, {**JENKINS, "STAGE_NAME": "tests"}),  # start, tests and stop may be stages of one agent
        ({"explicit": "a"}, {"explicit": "a", "checkout": "/elsewhere", **JENKINS}),
        ({"explicit": "a"}, {"PIPELINE_SESSION": "a"}),
    ],
)
def test_same_session(one: dict[str, str], other: dict[str, str]) -> None:
    assert key(**one) == key(**other)


def test_outside_ci_another_host_is_another_session(monkeypatch: pytest.MonkeyPatch) -> None:
    here = key()
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert key() != here
    assert key(**JENKINS) == key(**JENKINS)


def test_the_printed_key_finds_the_session_again() -> None:
    assert key(explicit=key(**JENKINS)) == key(**JENKINS)


def test_itest_never_shares() -> None:
    keys = {new_session("ledger", Path("/src"), HOUR, JENKINS).key for _ in range(50)}
    assert len(keys) == 50


@pytest.mark.parametrize("bad", ["a\nb", "=a", " a", "a" * 101])
def test_a_key_that_no_label_could_carry_is_refused(bad: str) -> None:
    with pytest.raises(ConfigurationError, match="not a session key"):
        key(explicit=bad)


def test_names_are_valid_for_the_engine_and_never_collide() -> None:
    names = [
        Session("team/x", session_key, "/c", HOUR).name_of("database") for session_key in ("a b", "a_b", "a/b", "ä", "x" * 100, "x" * 99)
    ]
    assert len(set(names)) == len(names)
    for name in names:
        assert all(sign.isascii() and (sign.isalnum() or sign in "_.-") for sign in name)
        assert len(name) < 128


def test_labels_tell_everything_a_sweep_needs() -> None:
    labels = Session("ledger", "k", "/c", HOUR, "LED-1").labels("database")
    assert set(labels) == {f"pipeline.{noun}" for noun in ("project", "session", "owner", "ends", "build", "lease", "checkout", "role")}
    assert labels["pipeline.owner"] == current_owner()


def test_an_owner_is_gone_only_where_that_is_certain() -> None:
    host, pid, start = current_owner().split(":")
    assert pid == str(os.getpid())
    assert not owner_is_gone({sessions.OWNER: current_owner()})
    assert owner_is_gone({sessions.OWNER: f"{host}:{pid}:{int(start) - 1}"})  # the pid was used again
    assert not owner_is_gone({sessions.OWNER: f"elsewhere:{pid}:1"})
    same_name_elsewhere = host.partition("/")[0] + "/0123abcd.1"  # another container of that host name, or before a restart
    assert not owner_is_gone({sessions.OWNER: f"{same_name_elsewhere}:{pid}:1"})
    assert not owner_is_gone({})


@dataclass
class Thing:
    id: str
    labels: Mapping[str, str]
    name: str = "name"
    state: str = "running"


@dataclass
class Engine:
    """An engine in memory."""

    containers: list[Thing] = field(default_factory=list)
    networks: dict[str, Mapping[str, str]] = field(default_factory=dict)
    volumes: dict[str, Mapping[str, str]] = field(default_factory=dict)

    def list_containers(self, labels: Mapping[str, str]) -> list[Thing]:
        return [thing for thing in self.containers if labels.items() <= thing.labels.items()]

    def list_networks(self, labels: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
        return {name: found for name, found in self.networks.items() if labels.items() <= found.items()}

    def list_volumes(self, labels: Mapping[str, str]) -> dict[str, Mapping[str, str]]:
        return {name: found for name, found in self.volumes.items() if labels.items() <= found.items()}

    def remove_container(self, container: str) -> None:
        self.containers = [thing for thing in self.containers if thing.id != container]

    def remove_network(self, network: str) -> None:
        self.networks.pop(network, None)

    def remove_volume(self, volume: str) -> None:
        self.volumes.pop(volume, None)


GONE = "{}:{}:1".format(*current_owner().split(":")[:2])  # this process id, when another process had it
HERE = current_owner()
ELSEWHERE = "elsewhere/0123abcd.1:1:1"
OWNERS = {"here": HERE, "gone": GONE, "elsewhere": ELSEWHERE}  # a test's name must be the same in every process


@pytest.mark.parametrize(
    ("state", "owner", "ends", "lease", "over"),
    [
        # What runs carries its lease inside; what the clock on the wall says is nothing against that.
        ("running", "gone", "lease", 1, ""),
        ("running", "elsewhere", "lease", 1, ""),
        ("running", "elsewhere", "process", 1, ""),
        ("running", "here", "process", 1, ""),
        ("running", "gone", "process", 2000, "its process is gone"),
        ("paused", "gone", "process", 2000, "its process is gone"),
        ("paused", "gone", "lease", 2000, ""),
        ("paused", "gone", "lease", 1, "its lease was over"),
        ("created", "here", "lease", 1, ""),  # on its way, even where the clock jumped meanwhile
        ("created", "elsewhere", "lease", 2000, ""),
        ("created", "elsewhere", "lease", 1, "its lease was over"),
        ("created", "gone", "lease", 2000, "its process is gone, and it does not run"),
        ("exited", "gone", "lease", 2000, "its process is gone, and it does not run"),
        ("exited", "here", "process", 1, ""),
    ],
)
def test_who_is_over(state: str, owner: str, ends: str, lease: int, over: str) -> None:
    mark = {sessions.PROJECT: "ledger", sessions.SESSION: "k"}
    labels = {**mark, sessions.OWNER: OWNERS[owner], sessions.ENDS: ends, sessions.LEASE: str(lease)}
    (found,) = find_things(Engine([Thing("c", labels, state=state)]), "ledger", now=1000)
    assert found.over == over


def test_a_volume_is_not_over_while_a_container_of_its_session_lives() -> None:
    labels = {**Session("ledger", "k", "/c", HOUR).labels("database"), sessions.OWNER: GONE, sessions.LEASE: "1"}
    living = Engine([Thing("c", labels)], {"n": labels}, {"v": labels})
    assert sweep(living, "ledger") == []
    left = Engine(networks={"n": labels}, volumes={"v": labels})
    assert [thing.kind for thing in sweep(left, "ledger")] == ["network", "volume"]
    assert not left.networks
    assert not left.volumes


def test_a_sweep_takes_what_outlived_its_lease_and_nothing_else() -> None:
    def labels(project: str, session: str, lease: int) -> dict[str, str]:
        return {sessions.PROJECT: project, sessions.SESSION: session, sessions.LEASE: str(lease), sessions.CHECKOUT: f"/{session}"}

    keep = [
        Thing("living", labels("ledger", "living", 1001), state="created"),
        Thing("renewed", labels("ledger", "renewed", 1), state="running"),
        Thing("foreign", labels("other", "over", 1)),
        Thing("registry", {sessions.PROJECT: "ledger"}),  # has no lease: started to stay
        Thing("odd", {**labels("ledger", "odd", 1), sessions.LEASE: "soon"}, state="created"),
    ]
    engine = Engine(
        [*keep, Thing("over", labels("ledger", "over", 999), state="created")],
        {"n": labels("ledger", "over", 999)},
        {"v": labels("ledger", "gone", 5)},
    )
    swept = sweep(engine, "ledger", now=1000)
    assert [(thing.kind, thing.session, thing.checkout) for thing in swept] == [
        ("container", "over", "/over"),
        ("network", "over", "/over"),
        ("volume", "gone", "/gone"),
    ]
    assert (engine.containers, engine.networks, engine.volumes) == (keep, {}, {})


def test_ending_a_session_leaves_the_others_and_may_be_repeated() -> None:
    mine, other = (Session("ledger", session_key, "/c", HOUR) for session_key in ("mine", "other"))
    engine = Engine([Thing(session.key, session.labels("database"), state="exited") for session in (mine, other)], volumes={"v": mine.mark})
    assert end_session(engine, mine) == 1
    assert end_session(engine, mine) == 0
    assert [thing.id for thing in engine.containers] == ["other"]
    assert not engine.volumes
