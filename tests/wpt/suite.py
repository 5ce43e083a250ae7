"""The W3C WebNN web-platform-tests as data (see NOTICE), and how one of them runs against `gpucompile.webnn`."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np

from gpucompile import webnn

HERE = Path(__file__).parent


def files(suite):
    """The names of a suite's files; suite is conformance or validation."""
    return sorted(p.name.removesuffix(".json.gz") for p in (HERE / suite).glob("*.json.gz"))


def load(suite, file):
    """The tests of a file that the specification of June 2026 agrees with: WPT's own, and float16 twins of those of
    operators that only move data."""
    tests = json.loads(gzip.decompress((HERE / suite / f"{file}.json.gz").read_bytes()))
    if suite == "conformance":
        return [t for t in tests if not t.get("nonspec")]
    skipped = ("js", "limit", "nonspec")
    return [t for t in tests if not any(tag.startswith(skipped) for tag in t.get("tags", []))]


def snake(name):
    """camelCase of the W3C API -> snake_case of the Python API."""
    special = {"gatherND": "gather_nd", "scatterND": "scatter_nd", "isNaN": "is_nan"}
    if name in special:
        return special[name]
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


class Adapter:
    """The W3C API in snake_case."""

    # what a validation error ("throws" in the validation data) may be
    VALIDATION_ERRORS = (TypeError, ValueError)

    def __init__(self, context):
        self.m, self.ctx = webnn, context

    def builder(self):
        return self.m.MLGraphBuilder(self.ctx)

    def input(self, b, name, data_type, shape):
        return b.input(name, data_type=data_type, shape=shape)

    def constant(self, b, array, data_type, shape):
        """array: ndarray of the right dtype and shape; for int4/uint4 a packed uint8 array."""
        if data_type in ("int4", "uint4"):
            return b.constant(array.tobytes(), data_type=data_type, shape=shape)
        return b.constant(array)

    def scalar_constant(self, b, data_type, value):
        return b.constant(value, data_type=data_type)

    def constant_from_descriptor(self, b, data_type, shape, array_or_bytes):
        """Validation only: descriptor and buffer given separately, they may contradict."""
        return b.constant(array_or_bytes, data_type=data_type, shape=shape)

    def op(self, b, name, args, options):
        """args: positional values (operands, lists of operands, numbers, lists, strings) in W3C order,
        options: W3C option name -> value (operand-valued options are operands)."""
        return getattr(b, snake(name))(*args, **{snake(k): v for k, v in options.items()})

    def build(self, b, outputs):
        return b.build(outputs)

    def run(self, graph, inputs, outputs):
        """inputs: {name: (ndarray, data_type, shape)}, outputs: {name: (data_type, shape)} -> {name: ndarray}.
        int4/uint4 arrays are packed uint8."""
        ins = {}
        for name, (array, data_type, shape) in inputs.items():
            t = self.ctx.create_tensor(data_type=data_type, shape=shape, readable=False, writable=True)
            self.ctx.write_tensor(t, array)
            ins[name] = t
        outs = {
            name: self.ctx.create_tensor(data_type=dt, shape=shape, readable=True, writable=False)
            for name, (dt, shape) in outputs.items()
        }
        self.ctx.dispatch(graph, inputs=ins, outputs=outs)
        return {name: np.asarray(self.ctx.read_tensor(t)) for name, t in outs.items()}

    def describe(self, operand):
        """(data_type, shape) of an operand, or None where the API does not tell."""
        dt, shape = getattr(operand, "data_type", None), getattr(operand, "shape", None)
        if dt is None or shape is None:
            return None
        dt = getattr(dt, "value", dt)
        return str(dt), [int(d) for d in shape]


NP = {
    "float32": np.float32,
    "float16": np.float16,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
    "int8": np.int8,
    "uint8": np.uint8,
}
SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf"), "-0": -0.0}
NUMERIC_OPTIONS = {"minValue", "maxValue", "value", "alpha", "beta", "epsilon"}
MAX_CHECKED = 1000  # WPT checks the first 1000 elements of outputs given by one fill value


def number(x):
    if isinstance(x, str):
        return SPECIAL[x] if x in SPECIAL else int(x)
    return x


def to_half_bits(values):
    """WPT's toHalf(): float64 -> float32 -> half bits, ties away from zero on the first dropped bit."""
    x = np.atleast_1d(np.asarray(values, np.float64))
    with np.errstate(over="ignore", invalid="ignore"):
        x = x.astype(np.float32)
    v = x.view(np.int32).astype(np.int64) & 0xFFFFFFFF
    sign = (v >> 16) & 0x8000
    m = (v >> 12) & 0x07FF
    e = (v >> 23) & 0xFF
    res = sign.copy()
    norm = (e >= 113) & (e <= 142)
    res = np.where(norm, (sign | ((e - 112) << 10) | (m >> 1)) + (m & 1), res)
    den = (e >= 103) & (e < 113)
    md = m | 0x0800
    sh = np.where(den, 114 - e, 1)
    res = np.where(den, sign | ((md >> sh) + ((md >> (sh - 1)) & 1)), res)
    big = e > 142
    nan = (e == 255) & ((v & 0x7FFFFF) != 0)
    res = np.where(big, sign | 0x7C00, res)
    res = np.where(nan, sign | 0x7E00, res)
    return res.astype(np.uint16)


def size_of(shape):
    n = 1
    for d in shape:
        n *= d
    return n


def flat_values(data, data_type, n):
    """Python/numpy 1-D array with the WPT data; a single number fills the tensor."""
    if not isinstance(data, list):
        one = flat_values([data], data_type, 1)
        return np.full(n, one[0], one.dtype)
    vals = [number(v) for v in data]
    if data_type == "float16":
        return to_half_bits(vals).view(np.float16) if vals else np.zeros(0, np.float16)
    if data_type in ("int4", "uint4"):
        return np.array([int(v) for v in vals], np.int64)
    if data_type == "float32":
        with np.errstate(over="ignore"):
            return np.array(vals, np.float64).astype(np.float32)
    return np.array([int(v) for v in vals], dtype=object).astype(NP[data_type]) if vals else np.zeros(0, NP[data_type])


def pack4(vals):
    out = np.zeros((len(vals) + 1) // 2, np.uint8)
    for i, v in enumerate(vals):
        out[i // 2] |= (int(v) & 0xF) << (4 * (i & 1))
    return out


def unpack4(raw, n, signed):
    raw = np.asarray(raw).reshape(-1).view(np.uint8)
    v = np.empty(n, np.int64)
    for i in range(n):
        x = (int(raw[i // 2]) >> (4 * (i & 1))) & 0xF
        v[i] = x - 16 if signed and x & 8 else x
    return v


def array_of(spec):
    dt, shape = spec["descriptor"]["dataType"], spec["descriptor"]["shape"]
    vals = flat_values(spec["data"], dt, size_of(shape))
    if dt in ("int4", "uint4"):
        return pack4(vals)
    return vals.reshape(shape)


def ulp_distance(actual, expected, data_type):
    """1-D arrays -> list/array of distances."""
    if data_type == "float32":
        a, b = np.asarray(actual, np.float32), np.asarray(expected, np.float32)

        def bits(v):
            r = np.abs(v).view(np.int32).astype(np.int64)
            r = np.where(np.isnan(v), 0x7FC00000, r)
            return np.where(v < 0, -r, r)

        return np.abs(bits(a) - bits(b))
    if data_type == "float16":
        a, b = np.asarray(actual, np.float16), np.asarray(expected, np.float16)
        ab, bb = a.view(np.uint16).astype(np.int64), b.view(np.uint16).astype(np.int64)
        d = np.abs(ab - bb)
        d = np.where(((ab & 0x7FFF) == 0) & ((bb & 0x7FFF) == 0), 0, d)
        return np.where(np.isnan(a) & np.isnan(b), 0, d)
    return [abs(int(x) - int(y)) for x, y in zip(actual, expected)]


class Mismatch(Exception):
    pass


def compare(name, actual, spec, tol):
    dt, shape = spec["descriptor"]["dataType"], spec["descriptor"]["shape"]
    n = size_of(shape)
    if dt in ("int4", "uint4"):
        got = unpack4(actual, n, dt == "int4")
    else:
        if actual.dtype != NP[dt]:
            raise Mismatch(f"{name}: data type {actual.dtype}, expected {dt}")
        if list(actual.shape) != list(shape):
            raise Mismatch(f"{name}: shape {list(actual.shape)}, expected {shape}")
        got = np.ascontiguousarray(actual).reshape(-1)
    want = flat_values(spec["data"], dt, n)
    if len(got) != len(want):
        raise Mismatch(f"{name}: {len(got)} elements, expected {len(want)}")
    if not isinstance(spec["data"], list) and n > 1:
        got, want = got[:MAX_CHECKED], want[:MAX_CHECKED]
    if not len(got):
        return
    value = tol["value"]
    if tol["metricType"] == "ULP":
        d = ulp_distance(got, want, dt)
        worst = int(np.argmax(d)) if isinstance(d, np.ndarray) else max(range(len(d)), key=d.__getitem__)
        if d[worst] > value:
            bad = sum(1 for x in d if x > value)
            raise Mismatch(
                f"{name}[{worst}] = {got[worst]}, expected {want[worst]}: {d[worst]} ULP > {value} "
                f"({bad} of {len(got)} elements)"
            )
    else:
        g = np.asarray(got, np.float64)
        w = np.array(
            [number(v) for v in (spec["data"] if isinstance(spec["data"], list) else [spec["data"]] * len(g))],
            np.float64,
        )
        with np.errstate(invalid="ignore"):
            ok = np.where(np.isfinite(w), np.abs(g - w) <= value, (g == w) | (np.isnan(g) & np.isnan(w)))
        if not ok.all():
            i = int(np.argmin(ok))
            raise Mismatch(
                f"{name}[{i}] = {g[i]}, expected {w[i]}: |difference| > {value} "
                f"({int((~ok).sum())} of {len(g)} elements)"
            )


def run_conformance(ad, test):
    """Raises Mismatch on a wrong result, anything else on an error."""
    g = test["graph"]
    b = ad.builder()
    ops, arrays = {}, {}

    def operand(name):
        if name in ops:
            return ops[name]
        spec = g["inputs"][name]
        dt, shape = spec["descriptor"]["dataType"], spec["descriptor"]["shape"]
        arr = array_of(spec)
        if spec.get("constant"):
            ops[name] = ad.constant(b, arr, dt, list(shape))
        else:
            ops[name] = ad.input(b, name, dt, list(shape))
            arrays[name] = (arr, dt, list(shape))
        return ops[name]

    def resolve(v):
        if isinstance(v, str):
            return operand(v) if v in ops or v in g["inputs"] else v
        if isinstance(v, list):
            return [resolve(x) for x in v]
        return v

    for o in g["operators"]:
        args, options = [], {}
        for a in o["arguments"]:
            for k, v in a.items():
                if k == "options":
                    options = {
                        n: (number(x) if n in NUMERIC_OPTIONS and not isinstance(x, (list, bool)) else resolve(x))
                        for n, x in v.items()
                    }
                else:
                    args.append(resolve(v))
        r = ad.op(b, o["name"], args, options)
        if isinstance(o["outputs"], list):
            rs = list(r) if isinstance(r, (list, tuple)) else [r]
            for n, x in zip(o["outputs"], rs):
                ops[n] = x
        else:
            ops[o["outputs"]] = r[0] if isinstance(r, (list, tuple)) and len(r) == 1 else r
    outs = {n: ops[n] for n in g["expectedOutputs"]}
    for n, spec in g["expectedOutputs"].items():
        d = ad.describe(outs[n])
        if d is not None and (d[0] != spec["descriptor"]["dataType"] or d[1] != list(spec["descriptor"]["shape"])):
            raise Mismatch(
                f"{n}: operand is {d[0]}{d[1]}, expected {spec['descriptor']['dataType']}{spec['descriptor']['shape']}"
            )
    graph = ad.build(b, outs)
    res = ad.run(
        graph,
        arrays,
        {n: (s["descriptor"]["dataType"], list(s["descriptor"]["shape"])) for n, s in g["expectedOutputs"].items()},
    )
    for n, spec in g["expectedOutputs"].items():
        compare(n, res[n], spec, test["tolerance"])


JS_BUFFERS = {
    "Float32Array": np.float32,
    "Float16Array": np.float16,
    "Int32Array": np.int32,
    "Uint32Array": np.uint32,
    "BigInt64Array": np.int64,
    "BigUint64Array": np.uint64,
    "Int8Array": np.int8,
    "Uint8Array": np.uint8,
    "Int16Array": np.int16,
    "Uint16Array": np.uint16,
    "Float64Array": np.float64,
}


def run_validation(ad, case):
    b, other = ad.builder(), None
    operands = []
    for i, d in enumerate(case["inputs"]):
        if d.get("builder") == "other":
            other = other or ad.builder()
            bb = other
        else:
            bb = b
        if d.get("kind") == "constant" and size_of(d["shape"]) < 1 << 16:
            operands.append(ad.constant(bb, np.zeros(d["shape"], NP[d["dataType"]]), d["dataType"], d["shape"]))
        else:
            operands.append(ad.input(bb, f"x{i}", d["dataType"], d["shape"]))

    def dec(v):
        if isinstance(v, dict):
            if "operand" in v:
                return operands[v["operand"]]
            if "operands" in v:
                return [operands[i] for i in v["operands"]]
            if v.get("js") == "bigint":
                return int(v["value"])
            if v.get("js") == "undefined":
                return None
            if "buffer" in v:
                t = JS_BUFFERS.get(v["buffer"]["type"])
                n = v["buffer"]["byteLength"]
                return bytes(n) if t is None else np.zeros(n // np.dtype(t).itemsize, t)
            return {k: dec(x) for k, x in v.items()}
        if isinstance(v, list):
            return [dec(x) for x in v]
        return v

    args = [dec(a) for a in case["args"]]
    options = {k: (number(v) if isinstance(v, str) and v in SPECIAL else dec(v)) for k, v in case["options"].items()}

    def call():
        if case["op"] == "input":
            d = args[1]
            return ad.input(b, args[0], d["dataType"], d["shape"])
        if case["op"] == "constant":
            if isinstance(args[0], dict):
                return ad.constant_from_descriptor(b, args[0].get("dataType"), args[0].get("shape"), args[1])
            return ad.scalar_constant(
                b, args[0], number(args[1]) if isinstance(args[1], str) and args[1] in SPECIAL else args[1]
            )
        return ad.op(b, case["op"], args, options)

    if case["expect"] == "throws":
        try:
            call()
        except NotImplementedError:
            raise
        except AttributeError:
            raise
        except ad.VALIDATION_ERRORS:
            return
        raise Mismatch("no exception, a TypeError/ValueError is expected")
    r = call()
    if case["expect"] == "ok":
        return
    exp = case["expect"]
    outs = exp.get("outputs", [exp])
    rs = list(r) if isinstance(r, (list, tuple)) else [r]
    if "outputs" in exp and len(rs) != len(outs):
        raise Mismatch(f"{len(rs)} outputs, expected {len(outs)}")
    for o, e in zip(rs, outs):
        d = ad.describe(o)
        if d is None or e is None:
            continue
        if "dataType" in e and d[0] != e["dataType"]:
            raise Mismatch(f"data type {d[0]}, expected {e['dataType']}")
        if "shape" in e and d[1] != list(e["shape"]):
            raise Mismatch(f"shape {d[1]}, expected {e['shape']}")
