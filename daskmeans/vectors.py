"""The inner loops that compilers leave scalar, or store to memory at each step, written for LLVM in whole vectors.

Must not know what the numbers are. To be called from compiled functions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

# A vector is the widest register of this processor: on AVX2, vectors of twice its width took 1.5 times as long.
_FEATURES = llvmlite.binding.get_host_cpu_features()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32

# Products of pairs of 16-bit integers, each pair added up: an instruction of its own. Elsewhere they take longer than
# products of float32.
_PAIRS = "llvm.x86.avx512.pmaddw.d.512" if VECTOR_BYTES == 64 else "llvm.x86.avx2.pmadd.wd"
HAS_PAIRS = bool(_FEATURES.get("avx512bw" if VECTOR_BYTES == 64 else "avx2"))

# A product's block: 12 sums stay in registers, of 32 or 16. 3 to 8 factors and 2 to 4 vectors were tried.
FACTORS_AT_ONCE, VECTORS_AT_ONCE = 6, 2


class Vectors:
    """Code for vectors of one number type, on the arrays that a function is called with.

    They fill a register, or have as many numbers as are given by `size`: LLVM parts them.
    """

    def __init__(
        self, context: Any, builder: Any, kinds: Sequence[Any], values: Sequence[Any], dtype: Any, size: int = 0
    ) -> None:
        self.context, self.builder, self.kinds, self.values = context, builder, kinds, values
        self.size = size or VECTOR_BYTES * 8 // dtype.bitwidth
        self.number = context.get_value_type(dtype)
        self.kind = ir.VectorType(self.number, self.size)
        self.zeros = ir.Constant(self.kind, None)

    def pointer(self, array: int, *index: Any) -> Any:
        """Return where a number of an array lies."""
        view = self.view(array)
        return cgutils.get_item_pointer(self.context, self.builder, self.kinds[array], view, index)

    def view(self, array: int) -> Any:
        """Return an array's data, shape and strides."""
        return self.context.make_array(self.kinds[array])(self.context, self.builder, self.values[array])

    def load(self, array: int, *index: Any) -> Any:
        """Return numbers of an array, widened to the number type."""
        place, align = self._place(array, *index)
        loaded = self.builder.load(place, align=align)
        return loaded if loaded.type == self.kind else self.builder.fpext(loaded, self.kind)

    def store(self, vector: Any, array: int, *index: Any) -> None:
        """Store numbers in an array."""
        place, align = self._place(array, *index)
        self.builder.store(vector, place, align=align)

    def _place(self, array: int, *index: Any) -> tuple[Any, int]:
        dtype = self.kinds[array].dtype
        kind = ir.VectorType(self.context.get_value_type(dtype), self.size)
        return self.builder.bitcast(self.pointer(array, *index), kind.as_pointer()), dtype.bitwidth // 8

    def sums_of_pairs(self, a: Any, b: Any) -> Any:
        """Return the products of the lower halves of integers, and of the upper halves, added up."""
        if HAS_PAIRS:
            halves = ir.VectorType(ir.IntType(16), 2 * self.size)
            kind = ir.FunctionType(self.kind, [halves, halves])
            multiply = cgutils.get_or_insert_function(self.builder.module, kind, _PAIRS)
            return self.builder.call(multiply, [self.builder.bitcast(a, halves), self.builder.bitcast(b, halves)])
        half = ir.Constant(self.kind, [self.number.width // 2] * self.size)
        upper = [self.builder.ashr(each, half) for each in (a, b)]
        lower = [self.builder.ashr(self.builder.shl(each, half), half) for each in (a, b)]
        return self.builder.add(self.builder.mul(*upper), self.builder.mul(*lower))

    def all_equal(self, number: Any) -> Any:
        """Return a vector of one number."""
        kind = ir.VectorType(number.type, self.size)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
        return self.shuffled(one, one, [0] * self.size)

    def shuffled(self, a: Any, b: Any, order: list[int]) -> Any:
        """Return some numbers of two vectors."""
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.size), order)
        return self.builder.shuffle_vector(a, b, lanes)

    def turned(self, square: list[Any]) -> list[Any]:
        """Return the columns of a square of numbers: halves of it change places, then halves of halves, and so on."""
        step = self.size // 2
        while step:
            upper = [lane + self.size - step if lane & step else lane for lane in range(self.size)]
            lower = [lane + self.size if lane & step else lane + step for lane in range(self.size)]
            for i in (i for i in range(self.size) if not i & step):
                a, b = square[i], square[i + step]
                square[i], square[i + step] = self.shuffled(a, b, upper), self.shuffled(a, b, lower)
            step //= 2
        return square


@intrinsic  # type: ignore[untyped-decorator]
def turn_square(
    typing_context: Any, columns: Any, sq_norm: Any, begin: Any, X: Any, rows: Any, d: Any, f: Any, offset: Any
) -> Any:
    """Turn a square of numbers, one vector wide: features `f` and after of as many rows of `X`, less the offset.

    They become ``columns[f:, begin:]``, 0 from feature `d` on; their squares are added to ``sq_norm[begin:]``, or begin
    it where `f` is 0. What follows a row's features is loaded too, so it must be memory of `X`, which is C-contiguous.
    """
    if X.layout != "C":
        raise TypingError(f"rows are loaded in vectors, so X must be C-contiguous; its layout is {X.layout!r}")
    signature = types.void(columns, sq_norm, types.intp, X, rows, types.intp, types.intp, offset)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vectors = Vectors(context, builder, signature.args, values, columns.dtype)
        begin, d, f = values[2], values[5], values[6]
        lanes = [ir.Constant(f.type, i) for i in range(vectors.size)]
        numbered = ir.Constant(ir.VectorType(f.type, vectors.size), list(range(vectors.size)))
        is_feature = builder.icmp_signed("<", numbered, vectors.all_equal(builder.sub(d, f)))
        shift = vectors.load(7, f)
        square = []
        for lane in lanes:
            shifted = builder.fsub(vectors.load(3, builder.load(vectors.pointer(4, lane)), f), shift)
            square.append(builder.select(is_feature, shifted, vectors.zeros))
        sq_dist = []
        for lane, column in zip(lanes, vectors.turned(square), strict=True):
            vectors.store(column, 0, builder.add(f, lane), begin)
            sq_dist.append(builder.fmul(column, column))
        while len(sq_dist) > 1:
            sq_dist = [builder.fadd(a, b) for a, b in zip(sq_dist[::2], sq_dist[1::2], strict=True)]
        is_first = builder.icmp_signed("==", f, lanes[0])
        before = builder.select(is_first, vectors.zeros, vectors.load(1, begin))
        vectors.store(builder.fadd(before, sq_dist[0]), 1, begin)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def multiply_block(typing_context: Any, products: Any, j: Any, t: Any, factors: Any, first: Any, columns: Any) -> Any:
    """Fill ``products[c, i] = first[c] + sum_f factors[c, f] columns[f, i]``, some `c` from `j` on, `i` from `t` on."""
    signature = types.void(products, types.intp, types.intp, factors, first, columns)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        vectors = Vectors(context, builder, signature.args, values, columns.dtype)
        j, t = values[1], values[2]
        own = [builder.add(j, ir.Constant(j.type, c)) for c in range(FACTORS_AT_ONCE)]
        places = [builder.add(t, ir.Constant(t.type, v * vectors.size)) for v in range(VECTORS_AT_ONCE)]
        sums = [[cgutils.alloca_once(builder, vectors.kind) for _ in places] for _ in own]
        for c, of_center in zip(own, sums, strict=True):
            begin = vectors.all_equal(builder.load(vectors.pointer(4, c)))
            for total in of_center:
                builder.store(begin, total)
        n_features = builder.extract_value(vectors.view(3).shape, 1)
        with cgutils.for_range(builder, n_features) as loop:
            x = [vectors.load(5, loop.index, place) for place in places]
            for c, of_center in zip(own, sums, strict=True):
                factor = vectors.all_equal(builder.load(vectors.pointer(3, c, loop.index)))
                for values_of_rows, total in zip(x, of_center, strict=True):
                    product = builder.fmul(factor, values_of_rows, flags=["contract"])
                    builder.store(builder.fadd(builder.load(total), product, flags=["contract"]), total)
        for c, of_center in zip(own, sums, strict=True):
            for place, total in zip(places, of_center, strict=True):
                vectors.store(builder.load(total), 0, c, place)
        return context.get_dummy_value()

    return signature, generate


@intrinsic  # type: ignore[untyped-decorator]
def multiply_pairs(
    typing_context: Any, products: Any, j: Any, t: Any, factors: Any, first: Any, columns: Any, scale: Any, scales: Any
) -> Any:
    """Fill what `multiply_block` does, of quantized factors and columns.

    Each int32 of ``factors[c, p]`` and ``columns[p, i]`` is a pair of 16-bit integers; their products are multiplied by
    ``scale[c] scales[i]``.
    """
    signature = types.void(products, types.intp, types.intp, factors, first, columns, scale, scales)

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pairs = Vectors(context, builder, signature.args, values, types.int32)
        floats = Vectors(context, builder, signature.args, values, products.dtype, pairs.size)
        j, t = values[1], values[2]
        own = [builder.add(j, ir.Constant(j.type, c)) for c in range(FACTORS_AT_ONCE)]
        places = [builder.add(t, ir.Constant(t.type, v * pairs.size)) for v in range(VECTORS_AT_ONCE)]
        sums = [[cgutils.alloca_once(builder, pairs.kind) for _ in places] for _ in own]
        n_pairs = builder.extract_value(pairs.view(3).shape, 1)
        for of_center in sums:
            for total in of_center:
                builder.store(pairs.zeros, total)
        with cgutils.for_range(builder, n_pairs) as loop:
            x = [pairs.load(5, loop.index, place) for place in places]
            for c, of_center in zip(own, sums, strict=True):
                factor = pairs.all_equal(builder.load(pairs.pointer(3, c, loop.index)))
                for values_of_rows, total in zip(x, of_center, strict=True):
                    builder.store(builder.add(builder.load(total), pairs.sums_of_pairs(values_of_rows, factor)), total)
        for c, of_center in zip(own, sums, strict=True):
            begin = floats.all_equal(builder.load(floats.pointer(4, c)))
            unit = floats.all_equal(builder.load(floats.pointer(6, c)))
            for place, total in zip(places, of_center, strict=True):
                scaled = builder.fmul(builder.sitofp(builder.load(total), floats.kind), floats.load(7, place))
                product = builder.fmul(scaled, unit, flags=["contract"])
                floats.store(builder.fadd(begin, product, flags=["contract"]), 0, c, place)
        return context.get_dummy_value()

    return signature, generate
