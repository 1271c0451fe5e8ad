"""The toolkit's own service images in an application that does not define them, with an engine of a few lines."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from git import Repo

from pipeline.config import read_config
from pipeline.errors import ConfigurationError
from pipeline.images.hierarchy import read_hierarchy
from pipeline.scaffold import shipped
from pipeline.tasks.service_images import CONFIGURATION, ShippedImages, provide_image
from pipeline.tasks.wiring import ImageProject
from tests.unit.tasks.test_wiring import NOBODY, Engine, engine  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parent.parent.parent.parent
MakeProject = Callable[[Mapping[str, str]], Path]


def silent(_line: str) -> None:
    pass


@pytest.fixture
def application(project: MakeProject, engine: Engine) -> Path:  # noqa: F811
    """One that defines no image, is in no Git repository, and whose registry does not answer."""
    return project({"pipeline.yaml": f"registry: {NOBODY}\nnamespace: team\n"})


def has(engine: Engine, root: Path, *names: str) -> list[str]:  # noqa: F811
    """Let the engine have the shipped images as this application would make them; their content tags."""
    with ShippedImages(read_config(root), silent) as images:
        steps = [images.read_plan([name], remember=True)[name] for name in names]
    for step in steps:
        engine.images.update({str(reference): (f"sha256:{step.name}", []) for reference in step.references})
    return [str(step.content) for step in steps]


def test_a_name_that_the_application_does_not_define_is_found(application: Path, engine: Engine) -> None:  # noqa: F811
    said: list[str] = []
    for name, content in zip(shipped.IMAGES, has(engine, application, *shipped.IMAGES), strict=True):
        assert content.startswith(f"pipeline.local/shipped/{name}:content-")
        assert provide_image(read_config(application), name, said.append) == content
    assert not [line for line in said if "registry" in line or "pin" in line]  # no registry is asked, and nothing is to be pinned


def test_the_applications_own_image_of_that_name_wins(images: MakeProject, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    root = images({"registry": "from: ubuntu:24.04"})
    (root / "REVISION").write_text("a" * 40 + "\n")
    monkeypatch.setenv("PIPELINE_BRANCH", "main")
    (root / "pipeline.yaml").write_text(f"registry: {NOBODY}\nnamespace: team\n")
    with ImageProject(read_config(root), silent) as project:
        step = project.read_plan()["registry"]
    engine.images.update({str(reference): ("sha256:own", []) for reference in step.references})
    assert provide_image(read_config(root), "registry", silent) == str(step.content)
    assert str(step.content).startswith(f"{NOBODY}/team/registry:")
    assert not (root / ".pipeline/shipped").exists()


def test_a_name_that_nobody_knows_is_told_with_how_to_name_another(application: Path, engine: Engine) -> None:  # noqa: F811
    (application / "pipeline.yaml").write_text(f"registry: {NOBODY}\nnamespace: team\nitest:\n  image: oracle-stadnin\n")
    with pytest.raises(ConfigurationError) as caught:
        provide_image(read_config(application), "oracle-stadnin", silent)
    assert caught.value.message == (
        "pipeline.yaml:4: 'itest.image': there is no image definition 'oracle-stadnin', and none of that name comes with the toolkit"
    )
    assert "Did you mean 'oracle-standin'?" in caught.value.hint
    assert "such as docker.io/oracle-stadnin:TAG" in caught.value.hint


def test_tags_and_fingerprints_are_the_same_wherever_the_toolkit_is(
    application: Path,
    engine: Engine,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def references() -> list[str]:
        with ShippedImages(read_config(application), silent) as images:
            steps = images.read_plan().steps
            return [str(reference) for step in steps for reference in step.references] + [images.workshop(images.read_plan())._source]

    with Repo.init(application) as repository:
        repository.create_remote("origin", "https://git.example.com/team/ledger.git")  # where the application is from, not these
    before = references()
    assert before[-1] == ""
    elsewhere = tmp_path / "site packages/pipeline/shipped"
    for path in shipped.shipped_definitions():
        (elsewhere / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, elsewhere / path)
        (elsewhere / path).chmod(0o755 if shipped.is_executable(ROOT / path) else 0o600)
    (elsewhere / "dockerfiles/oracle-standin/__pycache__").mkdir()
    (elsewhere / "dockerfiles/oracle-standin/__pycache__/x.pyc").touch()
    monkeypatch.setattr("pipeline.__file__", str(elsewhere.parent / "__init__.py"))
    assert shipped.shipped_folder() == elsewhere
    shutil.rmtree(application / ".pipeline")
    assert references() == before
    monkeypatch.setenv("PIPELINE_REGISTRY", "elsewhere.example.com")
    monkeypatch.setenv("GIT_COMMIT", "b" * 40)  # the commit of the application is not theirs
    monkeypatch.setenv("BRANCH_NAME", "feature/x")
    assert references() == before
    (elsewhere / "dockerfiles/registry/config.yml").write_text("changed")
    assert references() != before


def test_a_newer_version_leaves_nothing_of_an_older_one(application: Path, engine: Engine) -> None:  # noqa: F811
    laid_out = application / ".pipeline/shipped"
    has(engine, application, "registry")
    (laid_out / "images/gone.yaml").write_text("from: ubuntu:24.04\n")
    (laid_out / "dockerfiles/registry/config.yml").write_text("old")
    (laid_out / "dockerfiles/registry/bin/registry-start").chmod(0o644)
    before = (laid_out / "images/registry.yaml").stat().st_mtime_ns
    has(engine, application, "registry")
    assert not (laid_out / "images/gone.yaml").exists()
    assert (laid_out / "dockerfiles/registry/config.yml").read_text() == (ROOT / "dockerfiles/registry/config.yml").read_text()
    assert (laid_out / "dockerfiles/registry/bin/registry-start").stat().st_mode & 0o100
    assert (laid_out / "images/registry.yaml").stat().st_mtime_ns == before


def test_the_applications_own_package_index_and_ca_are_used(application: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    text = f"registry: {NOBODY}\nnamespace: team\nsecrets:\n  pip_index: {{file: secrets/index}}\n  ca: {{file: ca.pem}}\n  other: {{env: X}}\n"
    (application / "pipeline.yaml").write_text(text)
    with ShippedImages(read_config(application), silent) as images:
        assert sorted(images.config.secrets) == ["ca", "pip_index"]
        assert images.config.secrets["pip_index"].file == str(application / "secrets/index")
        assert images.config.secrets["ca"].file == str(application / "ca.pem")


def test_what_is_shipped_needs_nothing_that_is_not(tmp_path: Path) -> None:
    for path in shipped.shipped_definitions():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    (tmp_path / "pipeline.yaml").write_text(CONFIGURATION)
    assert sorted(read_hierarchy(read_config(tmp_path)).names) == sorted(shipped.IMAGES)
