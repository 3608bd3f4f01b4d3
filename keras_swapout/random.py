"""A random field that is a function, not a stream.

The 32-bit word at a linear index is a pure function of (key, lane, index): fourteen integer
operations, which a compiler fuses into whatever uses the word. Nothing is stored between the
forward and the backward pass and nothing is read from memory; NumPy, TensorFlow, JAX and torch give
the same bits, on one device or on many.

The mixers are Wellons' `triple32` and `lowbias32` (public domain, hash-prospector). A mixer keyed
once, by addition, would give two keys the same field shifted by a few places; so a key goes in
before each of the three multiplications, and the keys are themselves mixed first.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops as keras_ops

from keras_swapout import backend
from keras_swapout.arguments import checked, checked_count, checked_flag, is_int, refusal
from keras_swapout.schedules import probability as checked_probability

__all__ = [
    "LEVELS",
    "Rows",
    "halves",
    "key",
    "replica_offset",
    "rows",
    "sample_words",
    "threshold",
    "words",
    "words_at",
]

_MASK = 0xFFFFFFFF
#: A probability is a 16-bit threshold on half a word: 0 and 1 are exact.
LEVELS = 1 << 16
# Digits of pi: round constants that nobody chose.
_PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)


def __dir__() -> list[str]:
    return __all__


def key(seed_generator: keras.random.SeedGenerator) -> Any:
    """The next key of a seed generator: its (seed, step counter), two words of 32 bits.

    The generator's state is a variable of the layer that owns it, so keys are saved and restored
    with the model, and stay pure under JAX. What `keras.remat` computes again for a gradient gets
    the key it had, under TensorFlow.

    Args:
        seed_generator: a `keras.random.SeedGenerator`; its counter advances by one.

    Returns:
        A tensor of shape (2,), dtype uint32 (int64 under torch, which has no uint32 arithmetic).

    Raises:
        TypeError: not a seed generator. RuntimeError: within `keras.remat` under JAX or torch, or
            under TensorFlow in a `tf.function`, `tf.cond` or `tf.while_loop` within it.

    Example:

    >>> generator = keras.random.SeedGenerator(7)
    >>> [keras.ops.convert_to_numpy(key(generator)).tolist() for _ in range(2)]
    [[7, 0], [7, 1]]
    """
    expected = "a keras.random.SeedGenerator"
    checked(seed_generator, keras.random.SeedGenerator, "seed_generator", expected)
    return _as_words(backend.once(seed_generator, seed_generator.next), keras_ops)


def words(
    key: Any,
    shape: Sequence[Any],
    view: int = 0,
    offset: Any = 0,
    ops: ModuleType = keras_ops,
) -> Any:
    """The field: one uniform 32-bit word for each position of `shape`.

        words[i] = triple32(i + offset; k0, k1, k2),   (k0, k1, k2) = schedule(key, view // 2)

    and for an odd view the bitwise NOT of that, so views 2j and 2j + 1 are complementary: a unit
    that one keeps with probability p, the other keeps too only as often as it must.

    Args:
        key: two words, shape (2,): a seed and a step counter. See `key`.
        shape: the shape of the field; sizes may be tensors. At most 2**32 elements.
        view: index of the view, an int >= 0.
        offset: added to the linear index, modulo 2**32; a replica's place in the global batch.
        ops: `keras.ops`, or `numpy` for the same bits with no backend at all.

    Returns:
        Words of shape `shape`: uint32 (int64 under torch, with values in 0 .. 2**32 - 1).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> [hex(w) for w in words([1, 0], (3,), ops=np)]
    ['0xaa11a646', '0x8ebba37a', '0xcb7ccf83']
    >>> bool((words([1, 0], (3,), view=1, ops=np) == ~words([1, 0], (3,), ops=np)).all())
    True
    """
    _check_key(key)
    shape = _checked_shape(shape)
    view = checked_count(view, "view", 0, most=2 * _MASK + 1)  # a lane is a word
    _check_ints(offset, "offset", "an int or a scalar tensor of ints", least=-math.inf)
    _check_ops(ops)
    with np.errstate(over="ignore"):  # NumPy warns of the wrap-around of 0-d arrays
        index = _as_words(ops.arange(_size(shape), dtype=backend.INDEX_DTYPE), ops)
        word = _hash(_as_words(key, ops), _add(index, _as_words(offset, ops), ops), view // 2, ops)
        if view % 2:
            word = ops.bitwise_xor(word, _constant(_MASK, ops))
    return ops.reshape(word, shape)


class Rows(NamedTuple):
    """What the rows of a batch have to know of the field, one word for each row.

    Attributes:
        sample: index of the row's sample in the global batch.
        lane: index of the field it draws from; an int where it is the same for all.
        flip: all bits set where the row takes the complement, else none; None where no row does.
    """

    sample: Any
    lane: Any = 0
    flip: Any = None


def rows(
    count: Any, first: Any, offset: Any = 0, views: int = 1, complementary: bool = True
) -> Rows:
    """The `Rows` of a batch of views, view-major.

        row r is sample r mod n of view v = floor(r / n);  complementary: lane floor(v / 2), flipped
        for an odd v;  otherwise lane v, never flipped

    Args:
        count: number of rows.
        first: n, the number of rows of view 0. The last view may be shorter.
        offset: added to the index of the sample; see `replica_offset`.
        views: number of views.
        complementary: whether views 2j and 2j + 1 are complements of each other.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> batch = rows(5, 3, views=2)
    >>> [keras.ops.convert_to_numpy(x).tolist() for x in (batch.sample, batch.flip)]
    [[0, 1, 2, 0, 1], [0, 0, 0, 4294967295, 4294967295]]
    """
    _check_ints(count, "count")
    _check_ints(first, "first", least=min(count, 1) if is_int(count) else 0)
    _check_ints(offset, "offset", "an int or a scalar tensor of ints", least=-math.inf)
    checked_count(views, "views")
    checked_flag(complementary, "complementary")
    ops = keras_ops
    row = _as_words(ops.arange(count, dtype=backend.INDEX_DTYPE), ops)
    offset = _as_words(offset, ops)
    if views == 1:
        return Rows(_add(row, offset, ops))
    first = _as_words(first, ops)
    view = _as_words(ops.floor_divide(row, first), ops)  # torch narrows the quotient
    sample = _add(ops.subtract(row, ops.multiply(view, first)), offset, ops)
    if not complementary:
        return Rows(sample, lane=view)
    odd = ops.bitwise_and(view, _constant(1, ops))
    lane = 0 if views == 2 else ops.right_shift(view, _constant(1, ops))
    return Rows(sample, lane, ops.multiply(odd, _constant(_MASK, ops)))


def words_at(key: Any, rows: Rows, index: Any, stride: Any) -> Any:
    """The field at chosen places of each sample.

        words[r, ...] = w[sample_r * stride + index[r, ...]]   (w the field of `words`; its NOT in
        the rows that are flipped)

    so two rows of one sample, in views that are complements, get complementary words.

    Args:
        key: two words, shape (2,).
        rows: the batch, from `rows`.
        index: words or ints of shape (rows or 1, ...), 0 <= index < stride: the place within a
            sample.
        stride: how many places a sample has.

    Returns:
        Words of shape (rows, ...); uint32 (int64 under torch).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> words = words_at([1, 0], rows(2, 1, views=2), keras.ops.arange(2)[None], 2)
    >>> [[hex(w) for w in row] for row in keras.ops.convert_to_numpy(words).tolist()]
    [['0xaa11a646', '0x8ebba37a'], ['0x55ee59b9', '0x71445c85']]
    """
    _check_key(key)
    checked(rows, Rows, "rows", "what `keras_swapout.random.rows` returns")
    _check_ints(index, "index", "a tensor (rows or 1, ...) of ints", ranks=range(1, 64))
    _check_ints(stride, "stride")
    ops = keras_ops
    rank = len(index.shape)

    def column(x):
        return x if isinstance(x, int) else ops.reshape(x, (-1,) + (1,) * (rank - 1))

    base = _multiply(column(rows.sample), _as_words(stride, ops), ops)
    word = _hash(_as_words(key, ops), _as_words(index, ops), column(rows.lane), ops, base)
    return word if rows.flip is None else ops.bitwise_xor(word, column(rows.flip))


def sample_words(key: Any, rows: Rows, shape: Sequence[Any]) -> Any:
    """The field over whole samples: one word for each position of `shape` in each row.

    For a single view these are the words of `words(key, (rows, *shape))`.

    Args:
        key, rows: as `words_at`.
        shape: the shape of one sample's field; sizes may be tensors.

    Returns:
        Words of shape (rows, *shape); uint32 (int64 under torch).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> words = sample_words([1, 0], rows(1, 1), (3,))
    >>> [hex(w) for w in keras.ops.convert_to_numpy(words)[0].tolist()]
    ['0xaa11a646', '0x8ebba37a', '0xcb7ccf83']
    """
    shape = _checked_shape(shape)
    size = _size(shape)
    index = keras_ops.arange(size, dtype=backend.INDEX_DTYPE)
    return words_at(key, rows, keras_ops.reshape(index, (1, *shape)), size)


def _hash(key: Any, index: Any, lane: Any, ops: ModuleType, base: Any = None) -> Any:
    """triple32 at `base + index`, with a fresh key before each multiplication."""
    k0, k1, k2 = _schedule(key, lane, ops)
    if ops is keras_ops:
        k0, k1, k2 = backend.hoist((k0, k1, k2))
    if base is not None:
        # The key first: of base + index XLA would make a constant as large as the batch.
        k0 = _add(base, k0, ops)
    word = _add(index, k0, ops)
    word = _multiply(_xorshift(word, 17, ops), 0xED5AD4BB, ops)
    word = _multiply(_xorshift(_add(word, k1, ops), 11, ops), 0xAC4C1B51, ops)
    word = _multiply(_xorshift(_add(word, k2, ops), 15, ops), 0x31848BAB, ops)
    return _xorshift(word, 14, ops)


def halves(word: Any, ops: ModuleType = keras_ops) -> tuple[Any, Any]:
    """The low and the high 16 bits of each word: two independent uniforms in 0 .. 65535.

    Args:
        word: words as `words` returns them, any shape.
        ops: `keras.ops` or `numpy`.

    Returns:
        (low, high), each of the shape and dtype of `word`.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> [int(h) for h in halves(np.uint32(0x00020001), np)]
    [1, 2]
    """
    _check_ints(word, "word", "words: ints in [0, 2**32)", most=_MASK, ranks=range(64))
    _check_ops(ops)
    low = ops.bitwise_and(word, _constant(LEVELS - 1, ops))
    return low, ops.right_shift(word, _constant(16, ops))


def threshold(probability: Any) -> Any:
    """The integer t in 0 .. 65536 for which P(half word < t) is nearest to `probability`.

        t = round(65536 p),   |t / 65536 - p| <= 2**-17,   exact at 0 and 1

    Args:
        probability: a float in [0, 1], or a float32 tensor.

    Returns:
        An int, or for a tensor words of its shape.

    Raises:
        TypeError: not a number, nor a tensor of floats. ValueError: a number outside [0, 1].

    Example:

    >>> threshold(0.0), threshold(0.5), threshold(1.0)
    (0, 32768, 65536)
    """
    if type(probability) is float and 0 <= probability <= 1:
        return round(probability * LEVELS)  # on each call of a layer
    if isinstance(probability, numbers.Real):
        return round(checked_probability(probability, "probability") * LEVELS)
    if "float" not in str(getattr(probability, "dtype", None)):
        expected = "a number in [0, 1] or a tensor of floats"
        raise refusal(TypeError, "probability", expected, probability)
    return _as_words(keras_ops.round(probability * LEVELS), keras_ops)


def replica_offset(samples: Any) -> Any:
    """The index in the global batch of this replica's first sample.

        offset = replica id * samples of the local batch

    With an even split, the replicas' fields put together are the one device's field over the
    whole batch, bit for bit. (Keras' own generators give every replica the same numbers.) With an
    uneven one some samples of two replicas share a field: of 7, split into 4 and 3, the last of
    the first replica and the first of the second. A replica does not know how many the others have.

    Args:
        samples: size of the local batch, of one view.

    Returns:
        0 on a single device (an int), else a uint32 scalar.

    Raises:
        TypeError, ValueError: `samples` is not as above.
    """
    _check_ints(samples, "samples")
    replica = backend.replica_id()
    if replica is None:
        return 0
    return keras_ops.multiply(_as_words(replica, keras_ops), _as_words(samples, keras_ops))


def _schedule(key: Any, lane: int, ops: ModuleType) -> tuple[Any, Any, Any]:
    """Three round keys: an unbalanced Feistel network, so no two (key, lane) share all three."""
    a, b = key[0], key[1]
    c = _constant(lane, ops) if isinstance(lane, int) else lane
    for i in (0, 3):
        a = ops.bitwise_xor(a, _mix(_add(b, _constant(_PI[i], ops), ops), ops))
        b = ops.bitwise_xor(b, _mix(_add(c, _constant(_PI[i + 1], ops), ops), ops))
        c = ops.bitwise_xor(c, _mix(_add(a, _constant(_PI[i + 2], ops), ops), ops))
    # Every round key must depend on every bit of the key: one more turn for the last two.
    a = ops.bitwise_xor(a, _mix(_add(c, b, ops), ops))
    b = ops.bitwise_xor(b, _mix(_add(a, c, ops), ops))
    return a, b, c


def _mix(word: Any, ops: ModuleType) -> Any:
    """lowbias32."""
    word = _multiply(_xorshift(word, 16, ops), 0x7FEB352D, ops)
    word = _multiply(_xorshift(word, 15, ops), 0x846CA68B, ops)
    return _xorshift(word, 16, ops)


def _xorshift(word: Any, shift: int, ops: ModuleType) -> Any:
    return ops.bitwise_xor(word, ops.right_shift(word, _constant(shift, ops)))


def _multiply(word: Any, factor: Any, ops: ModuleType) -> Any:
    factor = _constant(factor, ops) if isinstance(factor, int) else factor
    return _wrap(ops.multiply(word, factor), ops)


def _add(a: Any, b: Any, ops: ModuleType) -> Any:
    # Not `ops.add`: under TensorFlow, Keras 3.15 takes a b of shape (n, 1, 1) for a bias.
    return _wrap(a + b, ops)


def _wrap(word: Any, ops: ModuleType) -> Any:
    """Modulo 2**32, where the dtype does not do it by itself (torch computes in int64)."""
    if keras.backend.standardize_dtype(word.dtype) == "uint32":
        return word
    return ops.bitwise_and(word, _MASK)


def _constant(value: int, ops: ModuleType) -> Any:
    return np.uint32(value) if ops is np else keras_ops.convert_to_tensor(value, dtype="uint32")


def _as_words(value: Any, ops: ModuleType) -> Any:
    if ops is np:
        return np.asarray(value).astype(np.uint32)
    return _wrap(keras_ops.cast(value, "uint32"), ops)


def _size(shape: Sequence[Any]) -> Any:
    known = math.prod(n for n in shape if isinstance(n, int))
    for n in shape:
        if not isinstance(n, int):
            known = n * known
    return known


def _check_ints(
    value: Any,
    name: str,
    expected: str = "",
    least: float = 0,
    most: float = math.inf,
    ranks: Sequence[int] = (0,),
) -> None:
    """Raises unless `value` is an int, or a tensor of ints: its values may not be known yet."""
    if type(value) is int and least <= value <= most and 0 in ranks:
        return  # on each call of a layer
    expected = expected or f"an int >= {least} or a scalar tensor of ints"
    if hasattr(value, "dtype"):
        ints = "int" in str(value.dtype)
    elif isinstance(value, numbers.Number):
        ints = is_int(value) and 0 in ranks
    else:  # a size that JAX exports as a symbol can be divided, and nothing else in doubt here can
        ints = hasattr(type(value), "__floordiv__")
    if not ints:
        raise refusal(TypeError, name, expected, value)
    out_of_range = is_int(value) and not least <= value <= most
    if out_of_range or len(getattr(value, "shape", ())) not in ranks:
        raise refusal(ValueError, name, expected, value)


def _check_key(key: Any) -> None:
    expected = "two words: ints in [0, 2**32), or a tensor (2,) of ints"
    words = key.tolist() if isinstance(key, np.ndarray) else key
    if isinstance(words, (list, tuple)):
        for i, word in enumerate(words):
            _check_ints(word, f"key[{i}]", "an int in [0, 2**32)", most=_MASK)
        count = len(words)
    else:
        _check_ints(key, "key", expected, ranks=(1,))
        count = key.shape[0]
    if count != 2:
        raise refusal(ValueError, "key", expected, key)


def _checked_shape(shape: Any) -> tuple[Any, ...]:
    sequence = hasattr(shape, "__getitem__") and getattr(shape, "ndim", 1) == 1
    if not sequence or isinstance(shape, (str, bytes, dict)):
        raise refusal(TypeError, "shape", "a sequence of sizes", shape)
    for i, size in enumerate(shape):
        _check_ints(size, f"shape[{i}]")
    return tuple(shape)


def _check_ops(ops: Any) -> None:
    if ops is not np and ops is not keras_ops:
        raise refusal(TypeError, "ops", "keras.ops or numpy", ops)
