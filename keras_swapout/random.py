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
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import keras
import numpy as np
from keras import ops as keras_ops

from keras_swapout import backend

MASK = 0xFFFFFFFF
#: A probability is a 16-bit threshold on half a word: 0 and 1 are exact.
LEVELS = 1 << 16
# Digits of pi: round constants that nobody chose.
_PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)


def key(seed_generator: keras.random.SeedGenerator) -> Any:
    """The next key of a seed generator: its (seed, step counter), two words of 32 bits.

    The generator's state is a variable of the layer that owns it, so keys are saved and restored
    with the model, and stay pure under JAX.

    Args:
        seed_generator: a `keras.random.SeedGenerator`; its counter advances by one.

    Returns:
        A tensor of shape (2,), dtype uint32 (int64 under torch, which has no uint32 arithmetic).

    Example:

    >>> generator = keras.random.SeedGenerator(7)
    >>> [keras.ops.convert_to_numpy(key(generator)).tolist() for _ in range(2)]
    [[7, 0], [7, 1]]
    """
    return _as_words(seed_generator.next(), keras_ops)


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
        ValueError: `view` is not an int >= 0.

    Example:

    >>> [hex(w) for w in words([1, 0], (3,), ops=np)]
    ['0xaa11a646', '0x8ebba37a', '0xcb7ccf83']
    >>> bool((words([1, 0], (3,), view=1, ops=np) == ~words([1, 0], (3,), ops=np)).all())
    True
    """
    if not isinstance(view, int) or isinstance(view, bool) or view < 0:
        raise ValueError(f"Argument `view` must be an int >= 0. Received: view={view!r}")
    with np.errstate(over="ignore"):  # NumPy warns of the wrap-around of 0-d arrays
        k0, k1, k2 = _schedule(_as_words(key, ops), view // 2, ops)
        if ops is keras_ops:
            k0, k1, k2 = backend.hoist((k0, k1, k2))
        index = _as_words(ops.arange(_size(shape), dtype=backend.INDEX_DTYPE), ops)
        word = _add(index, _add(k0, _as_words(offset, ops), ops), ops)
        # triple32, with a fresh key before each multiplication
        word = _multiply(_xorshift(word, 17, ops), 0xED5AD4BB, ops)
        word = _multiply(_xorshift(_add(word, k1, ops), 11, ops), 0xAC4C1B51, ops)
        word = _multiply(_xorshift(_add(word, k2, ops), 15, ops), 0x31848BAB, ops)
        word = _xorshift(word, 14, ops)
        if view % 2:
            word = ops.bitwise_xor(word, _constant(MASK, ops))
    return ops.reshape(word, tuple(shape))


def halves(word: Any, ops: ModuleType = keras_ops) -> tuple[Any, Any]:
    """The low and the high 16 bits of each word: two independent uniforms in 0 .. 65535.

    Args:
        word: words as `words` returns them, any shape.
        ops: `keras.ops` or `numpy`.

    Returns:
        (low, high), each of the shape and dtype of `word`.

    Example:

    >>> [int(h) for h in halves(np.uint32(0x00020001), np)]
    [1, 2]
    """
    low = ops.bitwise_and(word, _constant(LEVELS - 1, ops))
    return low, ops.right_shift(word, _constant(16, ops))


def threshold(probability: float) -> int:
    """The integer t in 0 .. 65536 for which P(half word < t) is nearest to `probability`.

        t = round(65536 p),   |t / 65536 - p| <= 2**-17,   exact at 0 and 1

    Args:
        probability: a float in [0, 1].

    Example:

    >>> threshold(0.0), threshold(0.5), threshold(1.0)
    (0, 32768, 65536)
    """
    return round(probability * LEVELS)


def replica_offset(shape: Sequence[Any]) -> Any:
    """Where this replica's part of the global batch begins in the linear index.

        offset = replica id * elements of the local field, modulo 2**32

    With an even split, the replicas' fields put together are the one device's field over the
    whole batch, bit for bit. (Keras' own generators give every replica the same numbers.)

    Args:
        shape: the shape of the local field, batch first.

    Returns:
        0 on a single device (an int), else a uint32 scalar.
    """
    replica = backend.replica_id()
    if replica is None:
        return 0
    return keras_ops.multiply(_as_words(replica, keras_ops), _as_words(_size(shape), keras_ops))


def _schedule(key: Any, lane: int, ops: ModuleType) -> tuple[Any, Any, Any]:
    """Three round keys: an unbalanced Feistel network, so no two (key, lane) share all three."""
    a, b, c = key[0], key[1], _constant(lane, ops)
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


def _multiply(word: Any, factor: int, ops: ModuleType) -> Any:
    return _wrap(ops.multiply(word, _constant(factor, ops)), ops)


def _add(a: Any, b: Any, ops: ModuleType) -> Any:
    return _wrap(ops.add(a, b), ops)


def _wrap(word: Any, ops: ModuleType) -> Any:
    """Modulo 2**32, where the dtype does not do it by itself (torch computes in int64)."""
    if keras.backend.standardize_dtype(word.dtype) == "uint32":
        return word
    return ops.bitwise_and(word, MASK)


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
