"""Archives for `docker load` that bring no layers: they describe anew an image whose layers the engine has."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from typing import Any

_DOCUMENT = 4 << 20  # bytes; what is larger in an image's export is a layer


def docker_archive(image: Mapping[str, Any], config: Mapping[str, Any], reference: str) -> bytes:
    """An archive for `docker load` that describes an image over the layers of `image` (Docker Image Specification v1.2)."""
    layers = image["RootFS"]["Layers"]
    described = {name.lower(): image[name] for name in ("Architecture", "Os", "Variant", "Created") if image.get(name)}
    history = [{"created": image["Created"], "created_by": "pipeline"} for _ in layers]
    described |= {"config": config, "rootfs": {"type": "layers", "diff_ids": layers}, "history": history}
    content = json.dumps(described).encode()
    name = f"{hashlib.sha256(content).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{number}/layer.tar" for number in range(len(layers))]}]
    return make_tar({name: content, "manifest.json": json.dumps(manifest).encode()})


def oci_archive(exported: Iterable[bytes], config: Mapping[str, Any], reference: str) -> bytes:
    """The same of an image as the engine exports it, of which only the documents are read (OCI Image Layout Specification)."""
    documents: dict[str, bytes] = {}
    with tarfile.open(fileobj=_Chunks(exported), mode="r|") as tar:
        for entry in tar:
            content = tar.extractfile(entry) if entry.isfile() and entry.size <= _DOCUMENT else None
            documents[entry.name] = content.read() if content else b""
    found = json.loads(documents["index.json"])["manifests"][0]
    manifest = json.loads(documents[_blob(found["digest"])])
    described = {**json.loads(documents[_blob(manifest["config"]["digest"])]), "config": config}
    blobs: dict[str, bytes] = {}

    def descriptor(kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
        content = json.dumps(document).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[_blob(digest)] = content
        return {"mediaType": kind, "digest": digest, "size": len(content)}

    manifest["config"] = descriptor(manifest["config"]["mediaType"], described)
    top = descriptor(found["mediaType"], manifest)
    top["annotations"] = {"io.containerd.image.name": reference, "org.opencontainers.image.ref.name": reference.rpartition(":")[2]}
    index = {"schemaVersion": 2, "manifests": [top]}
    return make_tar({"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode(), **blobs})


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def make_tar(files: Mapping[str, bytes]) -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path, content in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


class _Chunks(io.RawIOBase):
    """What arrives in pieces, as a file to read from."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            piece = next(self._chunks, None)
            if piece is None:
                break
            self._rest += piece
        end = len(self._rest) if size < 0 else size
        text, self._rest = self._rest[:end], self._rest[end:]
        return text
