"""What the plugins of OpenVINO's devices here make of the models in a bundle on disk, put into that bundle.

    bundle --read--> models for npu, cpu --compile, export--> openvino/<device>.blob, named in openvino/<device>.json

A bundle that was made where there was no NPU gets the compiled model so on a machine that has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gpucompile.backends.openvino.compile import with_blob
from gpucompile.errors import BundleError, DeviceError
from gpucompile.plan.bundle import OpenvinoFiles, json_text, write_bundle
from gpucompile.plan.weights import Content
from gpucompile.runtime.bundle import BundleData, open_store
from gpucompile.runtime.format import OpenvinoBlob
from gpucompile.runtime.openvino import OpenvinoOptions
from gpucompile.runtime.parts import KIND_OF, PartitionedData, open_bundle


def add_blobs(
    path: str | Path,
    output: str | Path | None = None,
    kinds: Sequence[str] = (),
    options: OpenvinoOptions | None = None,
) -> dict[str, OpenvinoBlob]:
    """Write a bundle, in parts or not, to `output` (default: in its own place) with what its models for `kinds`, npu or
    cpu, compile to here; the default are those that are here. Returns the new blobs by file name.

    Raises BundleError for a damaged bundle or one without such models, DeviceError where a device is missing or its
    plugin cannot export."""
    replaced: dict[str, Content] = {}
    added: dict[str, OpenvinoBlob] = {}
    missing: list[DeviceError] = []
    with open_bundle(path) as whole:
        found = [(p, b, k) for p, b in _bundles(whole) for k in b.openvino if not kinds or k in kinds]
        if not found:
            raise BundleError(f"{path}: no OpenVINO model for {' or '.join(kinds) or 'npu or cpu'} in it")
        for prefix, bundle, kind in found:
            model = bundle.openvino_model(kind)
            read = {f.file: bytes(bundle.openvino_file(f)) for f in (model.xml, model.weights)}
            try:
                files = with_blob(OpenvinoFiles(model, read), options)
            except DeviceError as e:
                if kinds:
                    raise
                missing.append(e)
                continue
            (blob,) = files.model.blobs
            added[prefix + blob.data.file] = blob
            replaced[f"{prefix}openvino/{kind}.json"] = Content.of(json_text(files.model).encode())
            replaced[prefix + blob.data.file] = Content.of(files.files[blob.data.file])
        if not added:
            raise DeviceError("; ".join(map(str, missing)))
        store = open_store(path)
        kept = {name: Content.of(store.read(name)) for name in store.names()}
        write_bundle(output or path, list((kept | replaced).items()))
        store.close()
    return added


def _bundles(whole: BundleData | PartitionedData) -> list[tuple[str, BundleData]]:
    """The bundles in a bundle, with where they lie in it."""
    if isinstance(whole, BundleData):
        return [("", whole)]
    parts = enumerate(whole.manifest.parts)
    return [(f"parts/{i}/", whole.device_part(i)) for i, part in parts if part.backend in KIND_OF]
