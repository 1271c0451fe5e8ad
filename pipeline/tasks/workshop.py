"""The engine with BuildKit, as building needs it: bases, secrets, labels, and where images are pulled from."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from pipeline.adapters.buildx import BuildRequest, Buildx
from pipeline.adapters.docker_context import Endpoint
from pipeline.adapters.docker_images import DockerImages
from pipeline.adapters.git_repository import source_url
from pipeline.adapters.mmdebstrap import make_root_filesystem
from pipeline.config import CONFIG_FILE, Config
from pipeline.document import line_of
from pipeline.errors import BuildError, ConfigurationError, EngineError, ImageUnavailableError
from pipeline.images.bases import BOOTSTRAP_REPOSITORY
from pipeline.images.context import write_context
from pipeline.images.dockerfile import takes_context
from pipeline.images.plan import BuildPlan, Step
from pipeline.reference import Reference, parse_reference
from pipeline.tasks.shelf import pull_reference


class DockerWorkshop:
    """The engine with BuildKit as building needs it."""

    def __init__(self, config: Config, endpoint: Endpoint, engine: DockerImages, plan: BuildPlan, say: Callable[[str], None]) -> None:
        self._config = config
        names = {name for step in plan.steps if step.action == "build" for name in step.definition.secrets}
        self._secrets = {name: source for name in sorted(names) if (source := self._find_secret(name))}
        self._engine = engine
        self._say = say
        self._buildx = Buildx(endpoint, config.state / "logs")

    def prepare_base(self, step: Step) -> None:
        if not step.base.startswith(BOOTSTRAP_REPOSITORY) or self._engine.find_image(step.base):
            return
        distribution, _, suite = step.base.rpartition("/")[2].partition(":")
        self._say(f"{step.name}: making its base from packages of {distribution} {suite}")
        with TemporaryDirectory(prefix="pipeline-") as folder:
            archive = Path(folder) / "root.tar"
            make_root_filesystem(distribution, suite, archive, self._config.state / "logs" / f"{step.name}-bootstrap.log")
            self._engine.import_image(
                archive, step.base, {"pipeline.base": step.base_description, "pipeline.project": self._config.project}
            )

    def build(self, step: Step, tags: tuple[Reference, ...], use_cache: bool, report: Callable[[str], None]) -> str:
        definition = step.definition
        self._refuse_triggers(step)
        request = BuildRequest(
            name=step.name,
            tags=tuple(map(str, tags)),
            platform=definition.platform,
            arguments={"BASE_IMAGE": step.base, **definition.args},
            named_contexts=step.named_contexts,
            labels=self._labels(step),
            secrets={name: self._secrets[name] for name in definition.secrets if name in self._secrets},
            use_cache=use_cache,
            cache_mark=step.pin_mark,
        )

        def write(stream: IO[bytes]) -> None:
            write_context(step.context, stream)

        try:
            return self._buildx.build(request, write, report)
        except BuildError as error:
            self._check_engine(step.name, error)
            raise

    def _refuse_triggers(self, step: Step) -> None:
        """Of the context is sent what the Dockerfile takes; ONBUILD triggers of an image from elsewhere may want more, and get less."""
        if step.context.sources.whole:
            return
        base = [step.base] if step.definition.base else []
        for reference in [*base, *(name for used, name in step.named_contexts.items() if used not in step.needs)]:
            triggers = self._engine.triggers_of(reference)
            if triggers is None:  # BuildKit would pull it now
                self._engine.pull_image(parse_reference(reference))
                triggers = self._engine.triggers_of(reference)
            if takes_context(triggers or ()):
                raise BuildError(
                    f"{step.name}: the image {reference} has ONBUILD triggers that read the build context: {'; '.join(triggers or ())}",
                    f"Write these instructions into {step.definition.dockerfile}, where they count, and use an image without triggers.",
                )

    def _check_engine(self, name: str, failure: BuildError) -> None:
        """Of an engine that dies, buildx says many things, most of them no help: the engine is asked itself."""
        try:
            self._engine.info()
        except EngineError as gone:
            raise EngineError(
                f"the Docker Engine went away while {name} was being built",
                f"Start it and run the build again; finished images stay. {gone.hint}",
            ) from failure

    def pull(self, content: Reference) -> str:
        source = pull_reference(self._config, content)
        self._engine.pull_image(source)
        if source != content:
            self._engine.tag_image(str(source), content)
        image = self._engine.find_image(str(content))
        if image is None:
            raise ImageUnavailableError(f"{content} was pulled, but the engine does not have it", "Run the build again.")
        return image.id

    def tag(self, image_id: str, reference: Reference) -> None:
        self._engine.tag_image(image_id, reference)

    def cancel(self) -> None:
        self._buildx.cancel()
        self._engine.abort()  # a pull

    @cached_property
    def _source(self) -> str:
        return source_url(self._config.root)

    def _labels(self, step: Step) -> dict[str, str]:
        labels = {
            "org.opencontainers.image.title": step.name,
            "org.opencontainers.image.description": step.definition.description or step.name,
            "org.opencontainers.image.base.name": step.base,
            "pipeline.fingerprint": step.fingerprint.value,
            "pipeline.project": self._config.project,
        }
        if step.definition.base:
            labels["pipeline.base"] = step.base_description  # children inherit it
        if self._source:
            labels["org.opencontainers.image.source"] = self._source
        return labels

    def _find_secret(self, name: str) -> str:
        """How buildx finds a secret; empty for one that is missing and not required."""
        if name == "ca" and name not in self._config.secrets:
            return f"src={ca_bundle()}" if ca_bundle().is_file() else ""
        secret = self._config.secrets[name]  # the definition was checked against the configuration
        if secret.env:
            if secret.env in os.environ:
                return f"env={secret.env}"
        else:
            path = os.path.join(self._config.root, os.path.expanduser(secret.file))
            if os.path.isfile(path):
                return f"src={path}"
        if secret.required:
            what = f"the variable {secret.env} is not set" if secret.env else f"there is no file {secret.file}"
            line = line_of(self._config.root / CONFIG_FILE, "secrets", name)
            raise ConfigurationError(
                f"{CONFIG_FILE}:{line}: the build secret '{name}' is missing: {what}", "Provide it, or say `required: false`."
            )
        return ""


def ca_bundle() -> Path:
    """The CA certificates this machine trusts: SSL_CERT_FILE, or where Debian and Ubuntu keep them."""
    return Path(os.environ.get("SSL_CERT_FILE") or "/etc/ssl/certs/ca-certificates.crt")
