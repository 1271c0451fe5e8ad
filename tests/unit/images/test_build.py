"""Carrying a plan out, with a workshop that only notes what it is asked for."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from pipeline.config import read_config
from pipeline.engine_image import EngineImage
from pipeline.errors import BuildError, EngineError
from pipeline.images import build as build_module
from pipeline.images.bases import Base, Bases
from pipeline.images.build import as_json, build_images, recorded_durations, recorded_inputs
from pipeline.images.context import read_context
from pipeline.images.fingerprint import Input, make_fingerprint
from pipeline.images.hierarchy import read_hierarchy
from pipeline.images.plan import BuildPlan, Step, plan_build
from pipeline.images.progress import Event, PlainLines
from pipeline.reference import Reference
from pipeline.revision import Revision

MakeProject = Callable[[Mapping[str, str]], Path]
MakePlan = Callable[..., BuildPlan]
FAMILY = {"root": "from: x", "a": "parent: root", "b": "parent: root", "c": "parent: root", "leaf": "parent: a"}


@pytest.fixture
def make_plan(images: MakeProject) -> MakePlan:
    def make(
        present: Mapping[str, tuple[str, ...]] = {}, registry: tuple[str, ...] = (), definitions: Mapping[str, str] = FAMILY
    ) -> BuildPlan:
        """`present`: image → which of its tags (0 content, 1 commit, 2 branch) the engine has; `registry`: contents it has."""
        root = images(definitions)
        hierarchy = read_hierarchy(read_config(root))
        prints = {name: make_fingerprint([Input("file", "x", name)]) for name in hierarchy.names}
        contexts = {definition.name: read_context(root / definition.context) for definition in hierarchy}
        base = Bases({"x": Base("digest", "sha256:" + "0" * 64), "absent": Base("absent", "no way")})

        def plan(engine: Mapping[str, EngineImage], digests: Mapping[str, str]) -> BuildPlan:
            return plan_build(hierarchy, Revision("main", "1" * 40), base, contexts, prints, (), engine, digests, {})

        empty = plan({}, {})
        engine = {
            str(empty[name].references[int(tag)]): EngineImage(f"id-{name}", frozenset(), frozenset(), 1)
            for name, tags in present.items()
            for tag in tags
        }
        return plan(engine, {str(empty[name].content): "sha256:" + "2" * 64 for name in registry})

    return make


class NotingWorkshop:
    """Notes what happens in what order; `fails` name images whose build fails, `there` those that it has from the beginning."""

    def __init__(
        self,
        fails: tuple[str, ...] = (),
        error: BaseException | None = None,
        together: threading.Barrier | None = None,
        there: tuple[str, ...] = (),
    ) -> None:
        self.fails, self.error, self.together, self.there = fails, error, together, there
        self.done: list[str] = []
        self.notes: list[str] = []
        self.running = self.most = 0
        self._lock = threading.Lock()

    def prepare_base(self, step: Step) -> None:
        self.notes.append(f"base {step.name}")

    def build(self, step: Step, tags: tuple[Reference, ...], use_cache: bool, report: Callable[[str], None]) -> str:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            assert all(name in (*self.done, *self.there) for name in step.needs)
        try:
            report("[2/2] COPY . /")
            if self.together and step.name in ("a", "b", "c"):
                self.together.wait(5)
            if step.name in self.fails:
                raise self.error or BuildError(f"{step.name} could not be built:\n  its log", f"see {step.name}.log")
            return f"id-{step.name}"
        finally:
            with self._lock:
                self.running -= 1
                self.done.append(step.name)
                self.notes.append(f"build {step.name} {len(tags)} {use_cache}")

    def pull(self, content: Reference) -> str:
        self.done.append(content.repository.rpartition("/")[2])
        self.notes.append(f"pull {content.repository}")
        return "pulled"

    def tag(self, image_id: str, reference: Reference) -> None:
        self.notes.append(f"tag {image_id} {reference.tag}")

    def cancel(self) -> None:
        self.notes.append("cancel")


class Noting(PlainLines):
    """Keeps every event."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__(lambda _line: None)
        self.events = events

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)


quiet = PlainLines(lambda _line: None)


def test_parents_first_and_independent_images_at_the_same_time(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(together=threading.Barrier(3))  # breaks unless all three are being built at once
    results = build_images(make_plan(), lambda: workshop, tmp_path, 3, quiet)
    assert workshop.done[0] == "root"
    assert set(workshop.done) == set(FAMILY)
    assert [result.step.name for result in results] == [step.name for step in make_plan().steps]
    assert {result.image_id for result in results} == {f"id-{name}" for name in FAMILY}


@pytest.mark.parametrize("jobs", [-1, 0, 1, 2])
def test_no_more_at_the_same_time_than_jobs(make_plan: MakePlan, tmp_path: Path, jobs: int) -> None:
    workshop = NotingWorkshop(together=threading.Barrier(jobs) if jobs == 1 else None)
    build_images(make_plan(), lambda: workshop, tmp_path, jobs, quiet)
    assert workshop.most <= max(jobs, 1)
    assert len(workshop.done) == len(FAMILY)


def test_a_failure_stops_what_has_not_begun(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(("root",))
    with pytest.raises(BuildError, match="root could not be built") as caught:
        build_images(make_plan(), lambda: workshop, tmp_path, 2, quiet)
    assert workshop.done == ["root"]
    assert caught.value.hint == "see root.log"


def test_a_failure_stops_independent_images_too(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(("a",))
    with pytest.raises(BuildError):
        build_images(make_plan(), lambda: workshop, tmp_path, 1, quiet)
    assert workshop.done == ["root", "a"]


def test_keep_going_builds_the_rest_and_reports_dependents(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(("a",))
    with pytest.raises(BuildError) as caught:
        build_images(make_plan(), lambda: workshop, tmp_path, 1, quiet, keep_going=True)
    assert set(workshop.done) == {"root", "a", "b", "c"}
    assert caught.value.message == "a could not be built:\n  its log\n  not built because of it:\n    leaf"
    assert caught.value.hint == "see a.log"


def test_keep_going_reports_all_below_a_failed_root(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build_images(make_plan(), lambda: NotingWorkshop(("root",)), tmp_path, 2, quiet, keep_going=True)
    assert caught.value.message.splitlines()[-1].split(", ") == ["    a", "b", "c", "leaf"]


def test_keep_going_reports_each_failure_once_with_what_it_cost(make_plan: MakePlan, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        build_images(make_plan(), lambda: NotingWorkshop(("a", "b")), tmp_path, 1, quiet, keep_going=True)
    assert caught.value.message.splitlines() == [
        "2 images failed, 1 more not built because of them",
        "a could not be built:",
        "  its log",
        "  not built because of it:",
        "    leaf",
        "  see a.log",
        "b could not be built:",
        "  its log",
        "  see b.log",
    ]
    assert caught.value.hint == ""


def test_without_an_engine_nothing_more_begins(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(("a",), EngineError("gone", "start it"))
    with pytest.raises(EngineError, match="gone"):
        build_images(make_plan(), lambda: workshop, tmp_path, 1, quiet, keep_going=True)
    assert workshop.done == ["root", "a"]


def test_what_is_being_built_when_another_fails_is_finished(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(("a",), together=threading.Barrier(3))
    events: list[Event] = []
    with pytest.raises(BuildError):
        build_images(make_plan(), lambda: workshop, tmp_path, 3, Noting(events))
    assert set(workshop.done) == {"root", "a", "b", "c"}
    ended = {event.image: event.state for event in events}
    assert ended == {"root": "done", "a": "failed", "b": "done", "c": "done", "leaf": "skipped"}


def test_the_kind_of_the_first_error_is_kept(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(("a", "b", "c"), EngineError("gone", "start it"))
    with pytest.raises(EngineError, match="gone"):
        build_images(make_plan(), lambda: workshop, tmp_path, 3, quiet)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interrupt_or_a_bug_cancels_and_is_raised(make_plan: MakePlan, tmp_path: Path, error: BaseException) -> None:
    workshop = NotingWorkshop(("root",), error)
    with pytest.raises(type(error)):
        build_images(make_plan(), lambda: workshop, tmp_path, 2, quiet)
    assert "cancel" in workshop.notes
    assert workshop.done == ["root"]


def test_with_nothing_to_do_no_thread_is_started(make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(build_module, "ThreadPoolExecutor")
    said: list[str] = []
    plan = make_plan(present=dict.fromkeys(FAMILY, ("0", "1", "2")))
    results = build_images(plan, NotingWorkshop, tmp_path, 4, PlainLines(said.append))
    assert {result.action for result in results} == {"none"}
    assert said == [f"{step.name}: unchanged" for step in plan.steps]
    assert list(tmp_path.rglob("inputs")) == []


def test_tags_are_moved_without_building(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop()
    build_images(make_plan(present={"root": ("0",)}, definitions={"root": "from: x"}), lambda: workshop, tmp_path, 1, quiet)
    assert workshop.notes == ["tag id-root main-111111111111", "tag id-root main"]


def test_a_pulled_image_is_tagged(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop()
    plan = make_plan(registry=("root",), definitions={"root": "from: x", "child": "parent: root"})
    result, _ = build_images(plan, lambda: workshop, tmp_path, 1, quiet)
    assert workshop.notes == ["pull team/root", "tag pulled main-111111111111", "tag pulled main", "build child 3 True"]
    assert (result.action, result.image_id) == ("pull", "pulled")


def test_a_roots_base_is_made_ready_before_it_is_built(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop()
    build_images(make_plan(definitions={"root": "from: x", "a": "parent: root"}), lambda: workshop, tmp_path, 1, quiet, use_cache=False)
    assert workshop.notes == ["base root", "build root 3 False", "build a 3 False"]


def test_a_skipped_image_says_why_and_the_rest_is_built(make_plan: MakePlan, tmp_path: Path) -> None:
    said: list[str] = []
    plan = make_plan(definitions={"root": "from: x", "other": "from: absent\noptional: true", "child": "parent: other"})
    results = build_images(plan, NotingWorkshop, tmp_path, 2, PlainLines(said.append))
    assert {result.step.name: result.action for result in results} == {"root": "build", "other": "skip", "child": "skip"}
    assert "other: skipped (absent cannot be had: no way)" in said


def test_the_longest_way_first_by_what_builds_took_last_time(make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "durations.json").write_text(json.dumps({"root": 1, "a": 1, "leaf": 1, "b": 1, "c": 5}))
    workshop = NotingWorkshop()
    build_images(make_plan(), lambda: workshop, tmp_path, 1, quiet)
    assert workshop.done == ["root", "c", "a", "b", "leaf"]  # without durations: a first, for two builds hang on it
    assert set(recorded_durations(tmp_path)) == set(FAMILY)
    assert recorded_durations(tmp_path)["c"] < 5


@pytest.mark.parametrize("text", ["", "[]", '{"a": "x"}', '{"a": null}'])
def test_durations_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "durations.json").write_text(text)
    assert recorded_durations(tmp_path) == {}


def test_only_what_a_build_needs_is_waited_for(make_plan: MakePlan, tmp_path: Path) -> None:
    workshop = NotingWorkshop(there=("root",))  # which lacks only other tags: its children need not wait for them
    build_images(
        make_plan(present={"root": ("0",)}, definitions={"root": "from: x", "a": "parent: root"}), lambda: workshop, tmp_path, 1, quiet
    )
    assert workshop.notes[0] == "build a 3 True"  # the longer one of the two


def test_events_tell_each_images_way(make_plan: MakePlan, tmp_path: Path) -> None:
    events: list[Event] = []
    plan = make_plan(present={"root": ("0", "1", "2")}, definitions={"root": "from: x", "a": "parent: root"})
    build_images(plan, lambda: NotingWorkshop(there=("root",)), tmp_path, 1, Noting(events))
    assert [(event.image, event.state, event.step) for event in events] == [
        ("root", "unchanged", ""),
        ("a", "waiting", ""),
        ("a", "building", ""),
        ("a", "building", "[2/2] COPY . /"),
        ("a", "done", ""),
    ]


def test_inputs_are_recorded_for_the_next_plans_reasons(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(definitions={"root": "from: x"})
    build_images(plan, NotingWorkshop, tmp_path, 1, quiet)
    assert recorded_inputs(tmp_path, ["root", "other"]) == {"root": plan["root"].fingerprint.inputs}
    (tmp_path / "inputs/root.json").write_text("[[1]]")
    (tmp_path / "inputs/other.json").write_text("{")
    assert recorded_inputs(tmp_path, ["root"]) == {}


def test_a_record_that_cannot_be_written_spoils_no_image(make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "inputs").write_text("in the way")
    (result,) = build_images(make_plan(definitions={"root": "from: x"}), NotingWorkshop, tmp_path, 1, quiet)
    assert result.image_id == "id-root"


def test_the_document_for_programs(make_plan: MakePlan, tmp_path: Path) -> None:
    results = build_images(make_plan(definitions={"root": "from: x"}), NotingWorkshop, tmp_path, 1, quiet)
    (image,) = as_json(results)["images"]
    assert set(image) == {"name", "fingerprint", "action", "references", "image_id", "digest", "seconds"}
    assert (image["name"], image["action"], image["image_id"], image["digest"]) == ("root", "build", "id-root", None)
