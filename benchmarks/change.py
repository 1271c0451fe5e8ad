"""One line changed in the example application: from the change to the published image."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.cases import Outcome
from benchmarks.measure import BenchmarkError, Run, Series, in_turn, run_command, seconds_of
from benchmarks.project import commit
from benchmarks.stage import INVOKE, ROOT, Stage, docker

SOURCE = "examples/accounting/src/main/java/example/accounting/VersionServlet.java"
APPLICATION = "accounting"
UPLOAD_GOAL = 1000.0  # kB
OVERHEAD_GOAL = 0.5  # seconds


def measure_change(stage: Stage, rounds: int) -> list[Outcome]:
    """The example's whole hierarchy in a repository of its own; each round changes one line, commits, builds and pushes.

    Beside it BuildKit alone, on the same context with another line changed: `docker buildx build`, no push.
    """
    project = _copy_repository(stage)
    made = json.loads(_expect_json(run_command([INVOKE, "build", "--only", APPLICATION, "--json"], project, stage.environment)))
    references = {image["name"]: image["references"][0] for image in made["images"]}
    run_command([INVOKE, "build", "push"], project, stage.environment)
    uploaded: list[float] = []
    number = 0

    def ours() -> Run:
        nonlocal number
        number += 1
        _change_line(project, f"{stage.namespace} ours {number}")
        before = _blobs(stage)
        run = run_command([INVOKE, "build", "push"], project, stage.environment)
        after = _blobs(stage)
        uploaded.append(sum(size for digest, size in after.items() if digest not in before) / 1e3)
        if f"{APPLICATION}: pushed" not in run.output:
            raise BenchmarkError(f"the change was not pushed:\n{run.output}")
        return run

    def buildkit() -> Run:
        nonlocal number
        number += 1
        context = project / "examples" / "accounting"
        _change_line(project, f"{stage.namespace} buildkit {number}", commit_it=False)
        command = ["docker", "buildx", "build", "--quiet", "--provenance=false", "--tag", f"{stage.namespace}/buildkit:local"]
        command += ["--build-arg", f"BASE_IMAGE={references['tomcat']}", "--build-context", f"jdk=docker-image://{references['jdk']}"]
        return run_command([*command, "."], context, stage.environment)

    a, b = in_turn(ours, buildkit, max(3, rounds // 2))
    series = {"change to pushed": seconds_of(a), "BuildKit alone": seconds_of(b)}
    docker("rmi", "--force", f"{stage.namespace}/buildkit:local")
    bytes_pushed = Series(tuple(uploaded))
    return [
        Outcome(
            "one line changed: from change to pushed, beyond BuildKit",
            "s",
            OVERHEAD_GOAL,
            series["change to pushed"].median - series["BuildKit alone"].median,
            series,
            "the whole hierarchy is planned, built, pushed, released and verified",
        ),
        Outcome("one line changed: pushed", "kB", UPLOAD_GOAL, max(uploaded), {"new blobs in the registry": bytes_pushed}),
    ]


def _copy_repository(stage: Stage) -> Path:
    """The images that the example needs, with what they are made of."""
    project = stage.folder / "application"
    for folder in ("dockerfiles", "examples"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    (project / "images").mkdir()
    for name in ("ubuntu", "jdk", "tomcat"):
        shutil.copy(ROOT / "images" / f"{name}.yaml", project / "images")
    config = [f"registry: {stage.registry}", f"namespace: {stage.namespace}/app", "images: [images/*.yaml, examples/*/image.yaml]"]
    (project / "pipeline.yaml").write_text("\n".join(config) + "\n", encoding="utf-8")
    (project / "tasks.py").write_text("from pipeline.tasks import namespace\n", encoding="utf-8")
    (project / ".gitignore").write_text(".pipeline/\n__pycache__/\n", encoding="utf-8")
    commit(project)
    return project


def _change_line(project: Path, text: str, commit_it: bool = True) -> None:
    path = project / SOURCE
    changed = re.sub(r'new Version\("accounting[^"]*"', f'new Version("accounting {text}"', path.read_text(encoding="utf-8"))
    path.write_text(changed, encoding="utf-8")
    if commit_it:
        identity = ["-c", "user.name=benchmark", "-c", "user.email=benchmark@example.com"]
        subprocess.run(["git", *identity, "commit", "--all", "--quiet", "--message", text], cwd=project, check=True)


def _blobs(stage: Stage) -> dict[str, int]:
    """Digest → bytes of everything that the application's newest image consists of in the registry."""
    path = f"{stage.namespace}/app/{APPLICATION}"
    address = f"http://{stage.registry}/v2/{path}/manifests/"
    accept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
    request = urllib.request.Request(f"{address}main", headers={"Accept": accept})
    with urllib.request.urlopen(request) as answer:
        document: dict[str, Any] = json.load(answer)
    return {part["digest"]: int(part["size"]) for part in (document["config"], *document["layers"])}


def _expect_json(run: Run) -> str:
    return run.output[run.output.index("{\n") :]
