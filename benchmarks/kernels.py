"""Times every configuration of the contraction kernels on the shapes that networks really have.

    python -m benchmarks kernels [--networks resnet50,...|decode] [--shapes N] [--json OUT]

For each shape: the configuration that the compiler would choose, the best one measured, and the floor. Many dispatches
go into one pass, so the host's cost does not count; clocks are warmed up before, and results lie in fresh buffers.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import gpucompile
from benchmarks import networks
from gpucompile.frontends.onnx.importer import import_model
from gpucompile.ir.graph import Constant, Graph
from gpucompile.ir.types import DataType, TensorType
from gpucompile.kernels.kernel import Kernel
from gpucompile.kernels.lower import problem_of, schedule_of
from gpucompile.kernels.schedules.base import Problem, Schedule
from gpucompile.kernels.schedules.contraction import contraction_of
from gpucompile.kernels.schedules.matmul import TILES, Tile, TiledMatmul
from gpucompile.kernels.schedules.vector import Columns, Rows
from gpucompile.kernels.view import Storage
from gpucompile.ops.contraction import Gemm, Matmul
from gpucompile.ops.movement import Transpose
from gpucompile.ops.softmax import Softmax
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan.storage import assign


@dataclass(frozen=True)
class Shape:
    """One contraction of a network and how often it occurs there."""

    key: str
    problem: Problem
    schedule: Schedule
    flops: int
    count: int


def shapes(names: list[str], target: gpucompile.Target) -> list[Shape]:
    """The distinct contractions of some networks, the most expensive first."""
    found: dict[str, Shape] = {}
    for name in names:
        graph = decode_step() if name == "decode" else import_model(networks.cached(name))
        PassManager("default").run(graph, Context(target))
        views = assign(graph).views
        for node in graph.nodes:
            if isinstance(node.op, Constant):
                continue
            problem = problem_of(node, views, target)
            c = contraction_of(problem.anchor)
            if c is None:
                continue
            schedule = schedule_of(problem)
            if not isinstance(schedule, (TiledMatmul, Rows, Columns)):
                continue
            op = problem.anchor.op  # type: ignore[union-attr]
            strides = getattr(op, "strides", "")
            window = c.b.type.shape if op.name == "conv2d" else ""
            key = f"{schedule.name} {c.batch}x{c.m}x{c.n}x{c.k} {op.name} {window} {strides}"
            old = found.get(key)
            found[key] = Shape(key, problem, schedule, 2 * c.batch * c.m * c.n * c.k, 1 + (old.count if old else 0))
    return sorted(found.values(), key=lambda s: -s.flops * s.count)


def decode_step() -> Graph:
    """One query over caches of keys and values of several sizes, and products with weights of GPT-2's sizes."""
    graph, outputs = Graph("decode"), {}
    rng = np.random.default_rng(0)
    for heads, slots, features in ((12, 256, 64), (12, 1024, 64), (12, 4096, 64), (32, 2048, 128)):
        name = f"{heads}x{slots}x{features}"
        cache = TensorType(DataType.FLOAT32, (1, heads, slots, features))
        q = graph.add_input(f"q{name}", TensorType(DataType.FLOAT32, (1, heads, 1, features)))
        keys = graph.add(Transpose((0, 1, 3, 2)), graph.add_input(f"k{name}", cache))
        scores = graph.add(Softmax(3), graph.add(Matmul(), q, keys))
        outputs[f"y{name}"] = graph.add(Matmul(), scores, graph.add_input(f"v{name}", cache))
    for k, n in ((768, 768), (768, 2304), (768, 3072), (3072, 768), (768, 32000)):
        x = graph.add_input(f"x{k}x{n}", TensorType(DataType.FLOAT32, (1, k)))
        weights = graph.constant(rng.standard_normal((k, n), dtype=np.float32))
        outputs[f"y{k}x{n}"] = graph.add(Gemm(), x, weights)
    graph.set_outputs(outputs)
    return graph


class Timer:
    """Runs kernels on a device, many times in one pass."""

    def __init__(self) -> None:
        import wgpu

        self.wgpu = wgpu
        self.device = gpucompile.Device.open()
        self.raw = self.device.handle
        self.buffers: dict[Storage, Any] = {}

    def buffer(self, s: Storage) -> Any:
        if s not in self.buffers:
            usage = self.wgpu.BufferUsage
            size = (s.nbytes + 255) // 256 * 256
            self.buffers[s] = self.raw.create_buffer(size=size, usage=usage.STORAGE | usage.COPY_SRC | usage.COPY_DST)
            rng = np.random.default_rng(len(self.buffers))
            data = rng.standard_normal(min(size // 4, 1 << 20), dtype=np.float32)
            for offset in range(0, size, data.nbytes):
                self.raw.queue.write_buffer(self.buffers[s], offset, data[: (size - offset) // 4])
        return self.buffers[s]

    def prepare(self, kernels: list[Kernel]) -> list[tuple[Any, Any, tuple[int, int, int]]]:
        out = []
        for k in kernels:
            module = self.raw.create_shader_module(code=k.wgsl)
            pipeline = self.raw.create_compute_pipeline(
                layout="auto", compute={"module": module, "entry_point": "main"}
            )
            entries = [
                {
                    "binding": i,
                    "resource": {
                        "buffer": self.buffer(a.storage),
                        "offset": 0,
                        "size": (a.storage.nbytes + 15) // 16 * 16,
                    },
                }
                for i, a in enumerate(k.arguments)
            ]
            out.append(
                (
                    pipeline,
                    self.raw.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries),
                    k.grid,
                )
            )
        return out

    def run(self, steps: list[tuple[Any, Any, tuple[int, int, int]]], repeat: int) -> float:
        encoder = self.raw.create_command_encoder()
        p = encoder.begin_compute_pass()
        for _ in range(repeat):
            for pipeline, group, grid in steps:
                p.set_pipeline(pipeline)
                p.set_bind_group(0, group)
                p.dispatch_workgroups(*grid)
        p.end()
        commands = encoder.finish()
        start = time.perf_counter()
        self.raw.queue.submit([commands])
        self.raw.queue.read_buffer(next(iter(self.buffers.values())), 0, 4)
        return time.perf_counter() - start

    def seconds(self, prepared: list[list[tuple[Any, Any, tuple[int, int, int]]]], warm: float = 0.3) -> list[float]:
        """Seconds one run of each list of dispatches takes, measured in turns without a pause between them."""
        counts = []
        for steps in prepared:
            once = min(self.run(steps, 4) for _ in range(2)) / 4
            counts.append(int(min(400, max(4, 0.006 / once))))
        begin = time.perf_counter()
        while time.perf_counter() - begin < warm:
            self.run(prepared[0], counts[0])
        idle = min(self.run([], 1) for _ in range(5))
        best = [1e9] * len(prepared)
        for _ in range(3):
            for i, steps in enumerate(prepared):
                best[i] = min(best[i], (self.run(steps, counts[i]) - idle) / counts[i])
        return best

    def release(self) -> None:
        for b in self.buffers.values():
            b.destroy()
        self.buffers.clear()


def candidates(shape: Shape, most: int) -> list[Any]:
    """The default configuration first, then the most promising others of every tile."""
    if isinstance(shape.schedule, (Rows, Columns)):
        return list(dict.fromkeys(shape.schedule.configs(shape.problem))) + TiledMatmul().configs(shape.problem)[:2]
    configs = shape.schedule.configs(shape.problem)
    out = list(configs[:3])
    for tile in TILES:  # without a split, and the two best splits
        same = [c for c in configs if replace(c, splits=1, unroll=tile.unroll) == tile]
        out += [c for c in same if c.splits == 1] + same[:3]
    return list(dict.fromkeys(out))[:most]


def emit(shape: Shape, config: Any) -> list[Kernel]:
    schedule = TiledMatmul() if isinstance(config, Tile) else shape.schedule
    return schedule.emit(shape.problem, config)


def short(config: Any) -> str:
    if isinstance(config, Tile):
        return (
            f"{config.bm}x{config.bn}x{config.bk}/{config.tm}x{config.tn}/{config.slices}*{config.splits}"
            + "u" * config.unroll
        )
    return str(config)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernels", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--networks", default="resnet50,squeezenet,vgg19,densenet121,inception_v2,shufflenet")
    parser.add_argument("--shapes", type=int, default=24)
    parser.add_argument("--configs", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=400.0, help="stop starting new shapes after this long")
    parser.add_argument("--json")
    args = parser.parse_args(argv)
    timer = Timer()
    target = gpucompile.Target.of(timer.device.adapter)
    todo = shapes(args.networks.split(","), target)
    print(f"{timer.device.name}: {len(todo)} shapes")
    begin = time.perf_counter()
    results = []
    for shape in todo[: args.shapes]:
        if time.perf_counter() - begin > args.seconds:
            break
        configs = candidates(shape, args.configs)
        prepared = [timer.prepare(emit(shape, c)) for c in configs]
        rows = list(zip(timer.seconds(prepared), configs, strict=True))
        timer.release()
        chosen = rows[0]
        best = min(rows, key=lambda r: r[0])
        print(
            f"{shape.count:3}x {shape.key:60} chosen {short(chosen[1]):20} {chosen[0] * 1e6:8.1f} us "
            f"{shape.flops / chosen[0] / 1e12:6.2f} TF  best {short(best[1]):20} {best[0] * 1e6:8.1f} us",
            flush=True,
        )
        results.append(
            {"shape": shape.key, "count": shape.count, "flops": shape.flops,
             "times": [{"config": short(c), "us": t * 1e6} for t, c in rows]}
        )  # fmt: skip
    total = sum(r["count"] * r["times"][0]["us"] for r in results)
    least = sum(r["count"] * min(t["us"] for t in r["times"]) for r in results)
    print(f"total chosen {total:.0f} us, best measured {least:.0f} us")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
