"""Show what is in a shader bundle: what it requires, inputs and outputs, memory, kernels, shaders."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpucompile.cli._common import size, table
from gpucompile.cli._fallback import add_explain_option, explained

if TYPE_CHECKING:
    from gpucompile.runtime.bundle import BundleData
    from gpucompile.runtime.format import (
        BufferKind,
        Manifest,
        OpenvinoModel,
        PartitionManifest,
        Plan,
        Port,
        Requires,
        Slot,
    )
    from gpucompile.runtime.parts import PartitionedData

NAME = "inspect"
HELP = "show what a bundle contains and requires"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="X.gpub", help="a bundle, file or directory")
    parser.add_argument("--variant", metavar="NAME", help="only this variant (default: all; for --shader the first)")
    parser.add_argument("--kernels", action="store_true", help="list the dispatches: label, grid, workgroup, bindings")
    parser.add_argument("--shader", metavar="N", type=int, help="print the WGSL of shader N, as --kernels numbers them")
    parser.add_argument("--graph", action="store_true", help="print the graph (.gir) it was made from")
    add_explain_option(parser)
    parser.add_argument("--json", action="store_true", help="print manifest and plans as JSON")


def run(args: argparse.Namespace) -> int:
    from gpucompile.errors import BundleError
    from gpucompile.runtime.format import to_json
    from gpucompile.runtime.parts import PartitionedData, open_bundle

    with open_bundle(args.bundle) as bundle:
        if isinstance(bundle, PartitionedData):
            return _parts(bundle, args)
        if args.explain:
            print(explained(None))
            return 0
        plans = [bundle.plan(name) for name in ([args.variant] if args.variant else bundle.variants)]
        if args.graph:
            print(bundle.gir(), end="")
        elif args.shader is not None:
            if not plans:
                raise BundleError(f"{args.bundle} has no shaders; it is for {', '.join(bundle.openvino)}")
            shaders = plans[0].shaders
            if not 0 <= args.shader < len(shaders):
                raise BundleError(f"variant {plans[0].name} has no shader {args.shader}; it has {len(shaders)}")
            print(bundle.shader(shaders[args.shader]).rstrip())
        elif args.json:
            print(json.dumps({"manifest": to_json(bundle.manifest), "variants": to_json(plans)}, indent=2))
        else:
            print(_summary(bundle))
            for device in bundle.openvino:
                print(_openvino_summary(bundle.openvino_model(device)))
            for plan in plans:
                print(_plan_summary(plan))
                if args.kernels:
                    print(_kernels(bundle, plan))
    return 0


def _parts(bundle: PartitionedData, args: argparse.Namespace) -> int:
    """A bundle in parts: the whole, then the parts for the device."""
    from gpucompile.errors import BundleError
    from gpucompile.runtime.format import to_json
    from gpucompile.runtime.parts import DEVICE

    m = bundle.manifest
    devices = [i for i, part in enumerate(m.parts) if part.backend == DEVICE]
    if args.variant or args.shader is not None:
        raise BundleError(f"{bundle.origin}: a bundle in parts; unpack it and give a part, such as parts/{devices[0]}")
    if args.graph:
        print("\n".join(bundle.device_part(i).gir() for i in devices), end="")
    elif args.json:
        plans = {i: [p.plan(n) for n in p.variants] for i, p in ((i, bundle.device_part(i)) for i in devices)}
        print(json.dumps({"manifest": to_json(m), "parts": to_json(plans)}, indent=2))
    elif args.explain:
        print(explained(m))
    else:
        print("\n".join(line for line in _head(bundle.origin, m) if line))
        print(explained(m))
        for i in devices:
            part = bundle.device_part(i)
            for name in part.variants:
                print(f"part {i}, {_plan_summary(part.plan(name))}")
                if args.kernels:
                    print(_kernels(part, part.plan(name)))
    return 0


def _head(origin: str, m: Manifest | PartitionManifest, buckets: Sequence[str] = ()) -> list[str]:
    return [
        f"{origin}: format {m.version}, by {m.producer}",
        f"source   {m.source_sha256 or 'unknown'}",
        f"dims     {', '.join(f'{k}={v}' for k, v in m.dims.items())}" if m.dims else "",
        *buckets,
        *_ports("inputs", m.inputs),
        *_ports("outputs", m.outputs),
        f"licence  {m.licence.splitlines()[0]}" if m.licence else "",
    ]


def _summary(bundle: BundleData) -> str:
    m = bundle.manifest
    buckets = [
        f"{'' if i else 'buckets':8} {', '.join(f'{k}={v}' for k, v in b.dims.items())}: {', '.join(b.variants)}"
        for i, b in enumerate(m.buckets)
    ]
    *head, licence = _head(bundle.origin, m, buckets)
    lines = [*head, f"weights  {size(sum(s.size for s in m.shards))} in {_count(len(m.shards), 'shard')}", licence]
    return "\n".join(line for line in lines if line)


def _openvino_summary(model: OpenvinoModel) -> str:
    lines = [f"openvino {model.device}", f"  made by   OpenVINO {model.version}"]
    lines.append(f"  IR        xml {size(model.xml.size)}, weights {size(model.weights.size)}")
    lines += [f"  compiled  for {b.device}, OpenVINO {b.version}: {size(b.data.size)}" for b in model.blobs]
    return "\n".join(lines)


def _ports(title: str, ports: Sequence[Port | Slot]) -> list[str]:
    return [f"{title if i == 0 else '':8} {p.name}: {p.dtype}{list(p.shape)}" for i, p in enumerate(ports)]


def _plan_summary(plan: Plan) -> str:
    kinds: tuple[BufferKind, ...] = ("input", "output", "state", "weight", "scratch")
    sizes = {kind: plan.bytes_of(kind) for kind in kinds if kind != "state" or plan.states}
    memory = ", ".join(f"{kind} {size(count)}" for kind, count in sizes.items())
    ratio = plan.bytes_of("scratch") / plan.scratch_bound if plan.scratch_bound else 0
    bound = f" ({ratio:.2f} x the largest sum of live bytes)" if ratio else ""
    lines = [
        f"variant {plan.name}",
        f"  requires  {_requires(plan.requires)}",
        f"  memory    {memory}{bound}",
        *_states(plan),
        f"  kernels   {_count(len(plan.steps), 'dispatch', 'dispatches')} of {_count(len(plan.shaders), 'shader')}",
    ]
    return "\n".join(lines)


def _states(plan: Plan) -> list[str]:
    if not plan.states:
        return []
    first, others = plan.states[0], len(plan.states) - 1
    more = f", and {others} more" if others else ""
    return [f"  in place  {first.output} is {first.input} with {first.count} written along axis {first.axis}{more}"]


def _requires(requires: Requires) -> str:
    from gpucompile.target import DEFAULT_LIMITS

    above = [f"{k} {v}" for k, v in sorted(requires.limits.items()) if v > DEFAULT_LIMITS.get(k, -1)]
    if not requires.features and not above:
        return "nothing beyond WebGPU's default limits"
    return ", ".join([*(f"feature {f}" for f in requires.features), *above])


def _kernels(bundle: BundleData, plan: Plan) -> str:
    groups = [_workgroup(bundle.shader(sha)) for sha in plan.shaders]
    rows = []
    for i, step in enumerate(plan.steps):
        bindings = [
            f"{plan.buffers[b.buffer].kind}{'' if b.access == 'read' else ' rw'} {size(b.size)}" for b in step.bindings
        ]
        threads = math.prod(step.grid) * math.prod(groups[step.shader] or (1,))
        group = "x".join(map(str, groups[step.shader])) or "?"
        rows.append((i, step.label, step.shader, "x".join(map(str, step.grid)), group, threads, ", ".join(bindings)))
    return table(rows, ("#", "kernel", "shader", "grid", "workgroup", "threads", "bindings"), indent="  ")


def _workgroup(wgsl: str) -> tuple[int, ...]:
    """The workgroup size of a shader; empty where it is not made of numbers."""
    m = re.search(r"@workgroup_size\(([0-9, u]+)\)", wgsl)
    return tuple(int(n.strip(" u")) for n in m[1].strip(", ").split(",")) if m else ()


def _count(n: int, one: str, many: str = "") -> str:
    return f"{n} {one if n == 1 else many or one + 's'}"
