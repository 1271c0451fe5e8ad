"""The tasks of this repository: `invoke --list`."""

from pipeline.tasks import namespace

__all__ = ["namespace"]
