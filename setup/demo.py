"""./invokew demo: sets everything up, then runs the main job, and says what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pipeline.config import read_config
from pipeline.errors import BUG_EXIT_CODE, PipelineError

ROOT = Path(__file__).resolve().parent.parent
INVOKE = str(Path(sys.executable).with_name("invoke"))


class StepFailedError(PipelineError):
    """A step of the demo ended with an exit code; what it said stands above."""

    def __init__(self, step: str, code: int) -> None:
        super().__init__(f"the demo stopped: {step} failed with exit code {code}", "What it said stands above. See also: ./invokew doctor")
        self.exit_code = code if code > 0 else BUG_EXIT_CODE


@dataclass
class Demo:
    """The steps of the main job as a person would type them, each with its time in seconds."""

    times: dict[str, float] = field(default_factory=dict)

    def run(self) -> str:
        """Everything, in order; the summary."""
        self.step("engine", [str(ROOT / "setup" / "engine.sh")])
        self.invoke("registry", "registry.start")
        built = self.invoke("build", "build", "--json")
        pushed = self.invoke("push", "push", "--allow-dirty", "--json")
        self.invoke("itest", "itest", capture=False)
        return self.summary(json.loads(built), json.loads(pushed))

    def invoke(self, name: str, *arguments: str, capture: bool = True) -> str:
        print(f"\n── invoke {' '.join(argument for argument in arguments if argument != '--json')}", file=sys.stderr, flush=True)
        return self.step(name, [INVOKE, *arguments], capture)

    def step(self, name: str, command: Sequence[str], capture: bool = True) -> str:
        """Run a command, its progress on stderr; return its standard output, or let it be seen."""
        start = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE if capture else None, text=True)
        try:
            output, _ = process.communicate()
        except BaseException:  # Ctrl-C reached the command, too: wait until it has cleaned up
            process.terminate()
            process.wait()
            raise
        self.times[name] = time.monotonic() - start
        if process.returncode:
            print(output or "", file=sys.stderr)
            raise StepFailedError(name, process.returncode)
        return output or ""

    def summary(self, built: dict[str, Any], pushed: dict[str, Any]) -> str:
        config = read_config(ROOT)
        release = json.loads((config.state / "release.json").read_text(encoding="utf-8"))
        done = {image["name"]: image["action"] for image in built["images"]}
        rows: list[tuple[str, ...]] = [("image", "this run", "size", "digest", "tags")]
        for image in pushed["images"]:
            entry = release["images"][image["name"]]
            if "absent" in entry:
                rows.append((image["name"], "skipped", "", "", f"its base cannot be had here ({entry['absent'].partition(' ')[0]})"))
            else:
                tags = " ".join(tag for tag in entry["tags"] if not tag.startswith("content-"))
                rows.append((image["name"], _past(done[image["name"]]), f"{entry['size'] / 1e6:.0f} MB", entry["digest"][7:19], tags))
        tests, database = _test_results(config.state / "itest")
        times = "   ".join(f"{name} {seconds:.1f} s" for name, seconds in self.times.items())
        return "\n".join(
            [
                "",
                _table(rows),
                "",
                f"  Pushed to   {config.registry}/{config.namespace} (sizes as the registry keeps them)",
                f"  Revision    {release['revision']['branch']} at {release['revision']['commit'][:12]}"
                + (", with uncommitted changes" if release["revision"]["dirty"] else ""),
                f"  Tests       {tests}",
                f"  Database    {database}",
                f"  Time        {times}",
                "",
                "  Try next    ./invokew plan                what would be built now, and why",
                "              ./invokew plan --graph        the hierarchy as a picture",
                "              ./invokew start-oracle        a database to work with; then run-tests, stop-oracle",
                f"              docker run --rm -p 127.0.0.1:8080:8080 {config.registry}/{config.namespace}/accounting:{_tag(release)}",
                "              ./invokew clean --images      take everything away again",
                "",
            ]
        )


def _past(action: str) -> str:
    return {"none": "unchanged", "tag": "tagged", "pull": "pulled", "build": "built", "skip": "skipped"}[action]


def _tag(release: dict[str, Any]) -> str:
    return str(release["images"].get("accounting", {}).get("tags", ["main"])[-1])


def _test_results(folder: Path) -> tuple[str, str]:
    passed = failed = 0
    database = "unknown"
    for path in sorted(folder.rglob("*.xml")):
        root = ElementTree.parse(path).getroot()
        for suite in root.iter("testsuite"):
            bad = sum(int(suite.get(key, 0)) for key in ("failures", "errors"))
            failed += bad
            passed += int(suite.get("tests", 0)) - bad - int(suite.get("skipped", 0))
            properties = {item.get("name"): item.get("value") for item in suite.iter("property")}
            database = properties.get("database.image") or database
            if properties.get("database.standin") == "true":
                database += "  (a stand-in: PostgreSQL that speaks Oracle's protocol, not Oracle)"
    return f"{passed} passed, {failed} failed", database


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  " + "  ".join("─" * width for width in widths), *lines[1:]])
