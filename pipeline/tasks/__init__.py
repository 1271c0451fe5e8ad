"""Invoke collections: parse, call, print. The only importers of invoke.

`from pipeline.tasks import namespace` in a repository's tasks.py gives it every command.
"""

from __future__ import annotations

from invoke.collection import Collection

from pipeline.tasks import images

namespace = Collection(images.build, images.push, images.plan, images.graph)
namespace.add_collection(Collection("pins", images.pins_update))
