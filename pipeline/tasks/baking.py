"""Baked databases put together: their names, the engine that has them, the registry that has them, and the start that takes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.adapters import processes
from pipeline.adapters.docker_engine import DockerEngine
from pipeline.config import CONFIG_FILE, Config
from pipeline.databases.bake import Baked, baked_reference, make_fingerprint, read_programs, why_not
from pipeline.databases.contract import DatabaseKind
from pipeline.document import line_of
from pipeline.errors import BakeRefusedError, ConfigurationError, ImageUnavailableError, RegistryRefusedError, RegistryUnreachableError
from pipeline.integration.baking import Bakery, Outcome, Recipe, find_baked
from pipeline.integration.run import Run
from pipeline.reference import Reference
from pipeline.revision import content_tag
from pipeline.sessions import Session


@dataclass(frozen=True)
class BakedDatabases:
    """The baked databases of one project on one engine, and in the project's registry."""

    config: Config
    engine: DockerEngine
    kind: DatabaseKind
    say: Callable[[str], None]

    def take(self, run: Run) -> Run:
        """`run` with what it is prepared from, and with the baked image in place of image and preparation where there is one."""
        if self.config.itest.bake == "never":
            return run
        if self.config.itest.bake == "registry":
            self._ensure_base(run)
        recipe = self.recipe(run)
        if isinstance(recipe, str):
            return run
        baked = find_baked(self.engine, recipe)
        if baked is None and self.config.itest.bake == "registry" and self._pull(recipe.reference):
            baked = find_baked(self.engine, recipe)
        if baked:
            self._announce(baked)
        return replace(run, database=replace(run.database, fingerprint=recipe.fingerprint.value, baked=baked))

    def recipe(self, run: Run) -> Recipe | str:
        """What is baked of `run` and what it is called; or why nothing is."""
        spec = run.database
        image = self.engine.find_image(spec.image)
        if image is None:
            return f"the engine does not have the image {spec.image}"
        reads = read_programs(run.root, self.config.itest.prepare)
        if isinstance(reads, str):
            return reads
        reason = why_not(self.kind, self.engine.image_volumes(spec.image), mounts=spec.mounts)
        if reason:
            return reason
        fingerprint = make_fingerprint(self.kind, image, spec.service, spec.user, run.steps, reads, spec.mounts)
        tag = content_tag(fingerprint.value)
        reference = baked_reference(self.config.registry, self.config.namespace, spec.image, tag)
        return Recipe(reference, fingerprint, self.config.project)

    def bake(self, run: Run, session: Session) -> tuple[Recipe, Outcome | None]:
        """Bake what `run` describes, unless it is there; None where it was. Raises BakeRefusedError with why it cannot be."""
        self._ensure_base(run)
        recipe = self.recipe(run)
        if isinstance(recipe, str):
            raise BakeRefusedError(f"the database cannot be baked: {recipe}")
        if find_baked(self.engine, recipe) or (self.config.itest.bake == "registry" and self._pull(recipe.reference)):
            return recipe, None
        return recipe, Bakery(self.engine, self.kind, processes, self.say).bake(run, session, recipe)

    def need(self, run: Run, session: Session) -> Run:
        """`run` with a baked image, which is made, in `session`, where there is none. Raises BakeRefusedError with why it cannot be."""
        if self.config.itest.bake == "never":
            line = line_of(self.config.root / CONFIG_FILE, "itest", "bake")
            raise ConfigurationError(
                f"{CONFIG_FILE}:{line}: 'itest.bake': it is never, but --reuse needs a baked database",
                "Say `local`, or leave --reuse out.",
            )
        if run.database.baked:
            return run
        recipe, _ = self.bake(run, session)
        spec = replace(run.database, fingerprint=recipe.fingerprint.value, baked=find_baked(self.engine, recipe))
        return replace(run, database=spec)

    def push(self, reference: Reference) -> tuple[str, bool]:
        """Publish a baked image that the engine has; its digest, and whether it had to be pushed."""
        from pipeline.adapters.docker_context import engine_endpoint
        from pipeline.adapters.docker_images import DockerImages

        there = self._digest(reference)
        if there:
            return there, False
        images = DockerImages(engine_endpoint())
        try:
            return images.push_image(reference), True
        finally:
            images.close()

    def _announce(self, baked: Baked) -> None:
        tag = baked.reference.rpartition(":")[2]
        others = f"; the accounts {', '.join(baked.accounts)} have new random passwords, too" if baked.accounts else ""
        self.say(f"database: baked as {tag}: no preparation is run{others}")

    def _ensure_base(self, run: Run) -> None:
        """The fingerprint needs the image's id, and what is baked shares its layers."""
        if self.engine.find_image(run.database.image) is None:
            self.say(f"pulling {run.database.image}")
            self.engine.pull_image(run.database.image)

    def _pull(self, reference: Reference) -> bool:
        """Get a published image; False where there is none, which is said.

        Raises RegistryUnreachableError, RegistryRefusedError and ImageUnavailableError: who shares baked databases through a registry
        is not to wait for one of its own without being told.
        """
        from pipeline.adapters.docker_context import engine_endpoint
        from pipeline.adapters.docker_images import DockerImages
        from pipeline.tasks.shelf import pull_reference

        try:
            source = pull_reference(self.config, reference)
            if not self._digest(source):
                self.say(f"database: none is published as {source}")
                return False
            images = DockerImages(engine_endpoint())
            try:
                self.say(f"pulling {source}")
                images.pull_image(source)
                images.tag_image(str(source), reference)
            finally:
                images.close()
        except (RegistryUnreachableError, RegistryRefusedError, ImageUnavailableError) as error:
            hint = "To go on without the registry's baked databases, set `itest.bake` to local."
            error.hint = f"{error.hint} {hint}".strip()
            raise
        return True

    def _digest(self, reference: Reference) -> str:
        from pipeline.adapters.registry import Registry

        registry = Registry(reference.registry, say=self.say)
        try:
            return registry.digests([reference])[0]
        finally:
            registry.close()
