"""Elements that share 32-bit words: 8-bit and 4-bit integers, and float16 where shaders have none.

Lowest element first. A read takes one element or four neighbours; a write takes whole words, so that no two invocations
write to the same one: four elements of 8 or 16 bits, and eight of 4 bits (two vectors, see `Map`).
"""

from __future__ import annotations

from gpucompile.ir.index import Index
from gpucompile.ir.types import DataType
from gpucompile.kernels.view import COMPUTE_TYPE


def packed_access(kind: str, name: str, dtype: DataType, position: Index, width: int, value: str) -> str:
    """WGSL that reads `width` elements at `position` of buffer `name`, or writes `value` there (`kind` "write": the
    name of a vec4, for 4-bit elements the names of two, with a space between)."""
    per_word = 32 // dtype.bits
    word = f"{name}[{(position // per_word).wgsl()}]"
    if kind == "write":
        if dtype.bits == 16:
            after = f"{name}[{(position // 2 + 1).wgsl()}]"
            return f"{word} = half_bits2({value}.xy); {after} = half_bits2({value}.zw);"
        vectors = [f"bitcast<vec4<u32>>({v})" if dtype.is_signed else v for v in value.split()]
        if dtype.bits == 8:
            return f"{word} = {_joined(vectors[0], 8)};"
        return f"{word} = {_joined(vectors[0], 4)} | ({_joined(vectors[1], 4)} << 16u);"
    if dtype.bits == 8 and width == 4 and position.divisible(4):
        if dtype.is_signed:
            return f"(vec4<i32>(bitcast<i32>({word})) << vec4<u32>(24u, 16u, 8u, 0u)) >> vec4<u32>(24u)"
        return f"(vec4<u32>({word}) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)"
    if width == 4:
        scalar = "f32" if dtype.is_float else COMPUTE_TYPE[dtype]
        return (
            f"vec4<{scalar}>({', '.join(packed_access(kind, name, dtype, position + i, 1, value) for i in range(4))})"
        )
    shift = (position % per_word * dtype.bits).wgsl()
    if dtype.bits == 16:
        return f"half_value(extractBits({word}, {shift}, 16u))"
    source = f"bitcast<i32>({word})" if dtype.is_signed else word
    return f"extractBits({source}, {shift}, {dtype.bits}u)"


def _joined(vector: str, bits: int) -> str:
    """Four elements in one word of which each takes `bits`."""
    factors = ", ".join(f"{1 << bits * i}u" for i in range(4))
    return f"dot({vector} & vec4<u32>({(1 << bits) - 1}u), vec4<u32>({factors}))"
