"""`python -m pipeline COMMAND`: every command where there is no tasks.py yet, above all `init`, which writes one."""

from __future__ import annotations

from importlib.metadata import version

from invoke.program import Program

from pipeline.tasks import namespace

if __name__ == "__main__":
    Program(version=version("pipeline"), namespace=namespace, name="pipeline", binary="python -m pipeline").run()
