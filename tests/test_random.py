"""The random field: the same bits everywhere, exact probabilities, and no structure."""

import math

import keras
import numpy as np
import pytest
from backends import marked, reduced
from keras import ops
from refusals import NO_FLAG, NO_INT, NO_NUMBER, NO_PROBABILITY, NO_SIZE, TENSOR, refuses
from scipy import stats

from keras_swapout import random

N = 1 << 20
MASK = 0xFFFFFFFF


def numpy_words(key, shape, **kwargs):
    return random.words(key, shape, ops=np, **kwargs)


def as_uint32(tensor):
    return ops.convert_to_numpy(tensor).astype(np.uint32)


# An independent implementation, in Python's own integers.


def reference_word(seed, counter, index, lane=0):
    def lowbias32(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & MASK
        x = ((x ^ (x >> 15)) * 0x846CA68B) & MASK
        return x ^ (x >> 16)

    pi = iter([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0])
    a, b, c = seed, counter, lane
    for _ in range(2):
        a ^= lowbias32((b + next(pi)) & MASK)
        b ^= lowbias32((c + next(pi)) & MASK)
        c ^= lowbias32((a + next(pi)) & MASK)
    a ^= lowbias32((c + b) & MASK)
    b ^= lowbias32((a + c) & MASK)
    w = (index + a) & MASK
    w = ((w ^ (w >> 17)) * 0xED5AD4BB) & MASK
    w = (w + b) & MASK
    w = ((w ^ (w >> 11)) * 0xAC4C1B51) & MASK
    w = (w + c) & MASK
    w = ((w ^ (w >> 15)) * 0x31848BAB) & MASK
    return w ^ (w >> 14)


@pytest.mark.parametrize(
    "key, view",
    [
        ((12345, 678), 1),
        ((MASK, MASK), 2),
        *marked(((0, 0), 0), ((1, 0), 5), ((0, 1), 1), ((0, 1), 0), ((12345, 678), 5)),
    ],
)
def test_words_equal_the_reference_in_python_integers(key, view):
    offset = MASK - 3  # the index wraps around
    expected = [reference_word(*key, (offset + i) & MASK, lane=view // 2) for i in range(12)]
    if view % 2:
        expected = [~word & MASK for word in expected]
    assert numpy_words(key, (3, 4), view=view, offset=offset).ravel().tolist() == expected
    assert (
        as_uint32(random.words(key, (3, 4), view=view, offset=offset)).ravel().tolist() == expected
    )


def test_backend_words_equal_numpy_words():
    for shape in [(), (0,), (1,), (5, 7, 3), (100_000,)]:
        np.testing.assert_array_equal(
            as_uint32(random.words([9, 4], shape)), numpy_words([9, 4], shape)
        )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graph modes")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_give_the_same_bits_for_a_dynamic_batch(jit_compile):
    import tensorflow as tf

    @tf.function(
        jit_compile=jit_compile,
        input_signature=[tf.TensorSpec((2,), tf.int64), tf.TensorSpec((None, 7, None))],
    )
    def run(key, x):
        return random.words(key, ops.shape(x), view=3)

    for batch in (1, 64):
        words = run(tf.constant([3, 8], tf.int64), tf.zeros((batch, 7, 5)))
        np.testing.assert_array_equal(as_uint32(words), numpy_words([3, 8], (batch, 7, 5), view=3))


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's jit")
def test_jit_gives_the_same_bits():
    import jax

    run = jax.jit(lambda key: random.words(key, (50, 7)))
    np.testing.assert_array_equal(
        as_uint32(run(np.array([3, 8], "uint32"))), numpy_words([3, 8], (50, 7))
    )


@pytest.mark.parametrize(
    "shape", reduced([(6, 1, 6), (6, 5, 6), (4, 4), (1, 1), (5, 2, 3, 5)], (6, 5, 6))
)
def test_samples_hold_the_words_of_the_whole_batch(shape):
    """Also where there are as many samples as channels, which Keras' `add` takes for a bias."""
    count, *inner = shape
    words = random.sample_words([9, 4], random.rows(count, count), inner)
    np.testing.assert_array_equal(as_uint32(words), numpy_words([9, 4], shape))
    offset = random.sample_words([9, 4], random.rows(count, count, offset=3), inner)
    np.testing.assert_array_equal(
        as_uint32(offset), numpy_words([9, 4], shape, offset=3 * int(np.prod(inner)))
    )


@pytest.mark.tensorflow
def test_a_batch_split_does_not_change_the_words():
    whole = numpy_words([1, 2], (8, 5, 3))
    parts = [numpy_words([1, 2], (2, 5, 3), offset=i * 2 * 5 * 3) for i in range(4)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.tensorflow
def test_odd_views_are_complements_and_pairs_are_unrelated():
    views = [numpy_words([1, 2], (N,), view=v) for v in range(4)]
    np.testing.assert_array_equal(views[1], ~views[0])
    np.testing.assert_array_equal(views[3], ~views[2])
    assert abs(correlation(views[0], views[2])) < BOUND


def test_keys_come_from_the_seed_generator_and_advance():
    generator = keras.random.SeedGenerator(2**31 - 1)
    keys = [as_uint32(random.key(generator)).tolist() for _ in range(3)]
    assert keys == [[2**31 - 1, step] for step in range(3)]


ROWS, INDEX = random.rows(2, 2), np.arange(2)[None]
CALLS = [
    (random.key, dict(seed_generator=None)),
    (random.words, dict(key=[1, 0], shape=(3,), view=0, offset=0, ops=np)),
    (random.rows, dict(count=4, first=2, offset=0, views=2, complementary=True)),
    (random.words_at, dict(key=[1, 0], rows=ROWS, index=INDEX, stride=2)),
    (random.sample_words, dict(key=[1, 0], rows=ROWS, shape=(3,))),
    (random.halves, dict(word=np.uint32(7), ops=np)),
    (random.threshold, dict(probability=0.5)),
    (random.replica_offset, dict(samples=3)),
]
NO_PLACE = (*NO_SIZE[:-1], [1, 2])
#: For each argument what has a wrong type and what a wrong value.
WRONG = {
    "seed_generator": ((*NO_INT, 7, [7, 0]), ()),
    "key": ((*NO_PLACE[:-1], 5), ([1], [1, 2, 3], (), ops.ones((2, 1), "int32"), np.array(1))),
    "shape": ((*NO_PLACE[:-1], 5, np.array(3)), ()),
    "view": (NO_INT, (-1, 2**33)),
    "offset": (NO_PLACE, (np.array([1]),)),
    "count": (NO_PLACE, (-1, np.int64(-1), np.array([1]))),
    "first": (NO_PLACE, (-1, 0)),
    "views": (NO_INT, (0, -1)),
    "complementary": (NO_FLAG, ()),
    "rows": ((*NO_SIZE, 2, (1, 0, None)), ()),
    "index": ((*NO_PLACE, 3), (np.array(3),)),
    "stride": (NO_PLACE, (-1,)),
    "word": (NO_PLACE, (-1, 2**32)),
    "ops": ((None, "numpy", math), ()),
    "probability": ([x for x in NO_NUMBER if x is not TENSOR], NO_PROBABILITY),
    "samples": (NO_PLACE, (-1,)),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("function, arguments", CALLS, ids=lambda x: getattr(x, "__name__", ""))
def test_bad_arguments(function, arguments):
    for name in arguments:
        types, values = WRONG[name]
        call = lambda value, name=name: function(**{**arguments, name: value})  # noqa: E731
        refuses(call, name, types, TypeError)
        refuses(call, name, values, ValueError)


@pytest.mark.tensorflow
def test_bad_parts_of_arguments():
    for word in (-1, 2**32):
        refuses(lambda word: random.words([0, word], (3,)), "key[1]", [word], ValueError)
    refuses(lambda word: random.words([word, 0], (3,)), "key[0]", (1.5, True, "1", None), TypeError)
    refuses(lambda size: random.words([0, 0], (2, size)), "shape[1]", (2.5, True, None), TypeError)
    refuses(lambda size: random.words([0, 0], (2, size)), "shape[1]", (-1,), ValueError)


@pytest.mark.tensorflow
def test_numbers_of_numpy_are_numbers():
    assert random.threshold(np.float32(0.5)) == 32768
    one = np.int64(1)
    expected = numpy_words([1, 1], (1, 1), view=1, offset=1)
    for key in ([one, one], np.array([1, 1], "uint32"), ops.convert_to_tensor([1, 1])):
        found = numpy_words(key, np.array([1, 1]), view=one, offset=ops.convert_to_tensor(1))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX's symbolic sizes")
def test_a_batch_of_a_size_to_be_given_later():
    import jax
    from jax import export

    def field(x):
        rows = random.rows(x.shape[0], x.shape[0], random.replica_offset(x.shape[0]))
        return random.sample_words([1, 0], rows, x.shape[1:])

    symbolic = jax.ShapeDtypeStruct(export.symbolic_shape("batch, 3"), "float32")
    words = export.export(jax.jit(field))(symbolic).call(np.zeros((2, 3), "float32"))
    np.testing.assert_array_equal(as_uint32(words), numpy_words([1, 0], (2, 3)))


@pytest.mark.tensorflow
@pytest.mark.parametrize("probability", [0.0, 2**-17, 1e-3, 0.3, 0.5, 1 - 1e-3, 1 - 2**-17, 1.0])
def test_probabilities_are_exact_at_the_ends_and_near_elsewhere(probability):
    threshold = random.threshold(probability)
    assert abs(threshold / 65536 - probability) <= 2**-17
    # Every half word once: the share below the threshold is the probability, with no sampling.
    low, high = random.halves(np.arange(65536, dtype=np.uint32) * np.uint32(65537), np)
    assert (low < threshold).mean() == (high < threshold).mean() == threshold / 65536
    if probability in (0.0, 1.0):
        assert threshold / 65536 == probability


def test_a_field_of_2_to_the_31_elements():
    """The last words of the largest field, without holding it: the index must not go negative."""
    tail = 1000
    assert numpy_words([7, 7], (tail,), offset=2**31 - tail).tolist() == [
        reference_word(7, 7, 2**31 - tail + i) for i in range(tail)
    ]
    np.testing.assert_array_equal(
        as_uint32(random.words([7, 7], (tail,), offset=2**31 - tail)),
        numpy_words([7, 7], (tail,), offset=2**31 - tail),
    )


# Quality, over 2**24 = 1.7e7 words. Each threshold is a two-sided bound at p = 1e-6 a comparison
# (4.9 standard deviations), so a sound field fails one run of these tests in some thousands of
# seeds; the seeds are fixed. All of it is NumPy's field, which the backends are held to above.

WORDS = 1 << 24
SIGMAS = 4.9


def correlation(a, b):
    return np.corrcoef(a.astype(np.float64), b.astype(np.float64))[0, 1]


BOUND = SIGMAS / np.sqrt(N)


@pytest.fixture(scope="module")
def long_run():
    return numpy_words([2024, 0], (WORDS,))


def bit_deviation(words):
    """Largest deviation of a bit's frequency from 1/2, in standard deviations."""
    ones = np.zeros(32)
    for part in np.array_split(words, words.size >> 14):  # of a size that stays in the cache
        ones += [np.count_nonzero(part & np.uint32(1 << bit)) for bit in range(32)]
    return np.abs(2 * ones - words.size).max() / np.sqrt(words.size)


@pytest.mark.tensorflow
def test_every_bit_is_as_often_0_as_1(long_run):
    assert bit_deviation(long_run) < SIGMAS


@pytest.mark.tensorflow
def test_every_value_of_each_half_is_equally_frequent(long_run):
    for half in random.halves(long_run, np):
        counts = np.bincount(half.astype(np.int64), minlength=65536)
        p = stats.chisquare(counts).pvalue
        assert 1e-6 < p < 1 - 1e-6


@pytest.mark.tensorflow
def test_the_two_halves_are_independent(long_run):
    low, high = random.halves(long_run, np)
    table = np.bincount((low >> 8).astype(np.int64) * 256 + (high >> 8), minlength=65536)
    assert 1e-6 < stats.chisquare(table).pvalue < 1 - 1e-6


@pytest.mark.tensorflow
@pytest.mark.parametrize("lag", [1, 2, 3, 16, 32, 64, 1024, 32 * 32, 32 * 32 * 16, 65536])
def test_no_serial_correlation_of_any_bit(long_run, lag):
    assert bit_deviation(long_run[lag:] ^ long_run[:-lag]) < SIGMAS


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "other",
    [
        {"key": [2024, 1]},  # the next step
        {"key": [2025, 0]},  # the next seed
        {"key": [0, 2024]},
        {"key": [2024, 0], "view": 2},  # the next lane
        {"key": [2024 ^ (1 << 31), 0]},
    ],
    ids=str,
)
def test_neighbouring_keys_are_unrelated(long_run, other):
    key, view = other["key"], other.get("view", 0)
    words = numpy_words(key, (1 << 22,), view=view)
    assert bit_deviation(long_run[: len(words)] ^ words) < SIGMAS


@pytest.mark.tensorflow
def test_no_key_gives_another_keys_field_shifted():
    """Cross-correlation at every shift, by FFT, among fields of neighbouring keys."""
    size = 1 << 16
    keys = [(s, c) for s in (0, 1, 2, 1 << 16) for c in (0, 1, 2, 1000)]
    fields = np.stack([numpy_words(key, (size,)) for key in keys]) / 2**32 - 0.5
    spectra = np.fft.rfft(fields * np.sqrt(12), axis=1)
    bound = stats.norm.isf(1e-6 / (size * len(keys) ** 2))
    for i in range(len(keys)):
        for j in range(i):
            shifted = np.fft.irfft(spectra[i] * spectra[j].conj(), n=size) / np.sqrt(size)
            assert np.abs(shifted).max() < bound


@pytest.mark.tensorflow
def test_the_words_of_many_steps_at_one_place_are_uniform():
    """What one unit sees over training: bit frequencies and serial correlation over the counter."""
    words = np.stack([numpy_words([5, step], (128,)) for step in range(2048)])
    assert bit_deviation(words) < SIGMAS
    assert bit_deviation(words[1:] ^ words[:-1]) < SIGMAS


@pytest.mark.tensorflow
def test_keys_are_distinct():
    """The first words of 2**12 keys: as many equal pairs as chance gives, not more."""
    first = [
        numpy_words([seed, step], (2,)).astype(np.uint64)
        for seed in range(64)
        for step in range(64)
    ]
    pairs = {int(a) << 32 | int(b) for a, b in first}
    assert len(pairs) == 64 * 64
