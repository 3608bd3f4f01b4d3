"""Inputs in batches: the same samples in the same order, whatever they come in."""

import keras
import numpy as np
import pytest

from keras_swapout.inference.batches import batches, first, length, rows

X = np.arange(14).reshape(7, 2)


class Sequence(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return len(self.parts)

    def __getitem__(self, index):
        return self.parts[index]


class Endless(Sequence):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return self.parts[index % len(self.parts)]


def listed(x, size, **keywords):
    return [batch.tolist() for batch in batches(x, size, **keywords)]


def check(x, size, expected=X):
    """All of `expected`, in order, in batches of `size` but for the last."""
    parts = list(batches(x, size))
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert 1 <= len(parts[-1]) <= size


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_arrays_tensors_and_lists_of_numbers(size):
    for x in (X, keras.ops.convert_to_tensor(X), X.tolist(), tuple(X.tolist())):
        check(x, size)


@pytest.mark.tensorflow
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 100])
def test_batches_of_a_set_are_regrouped(size):
    for cuts in ([3, 6], [1, 2], [0, 5, 5], []):  # a batch may be empty
        parts = np.split(X, cuts)
        check((part for part in parts), size)
        check(Sequence(*parts), size)
        check(((part, "labels", "weights") for part in parts), size)
        check(([part, None] for part in parts), size)


def test_tensors_in_a_set_become_arrays():
    (batch,) = batches(iter([keras.ops.convert_to_tensor(X)]), 10)
    assert type(batch) is np.ndarray


@pytest.mark.tensorflow
@pytest.mark.parametrize("make", [list, tuple, lambda pair: dict(zip("ba", pair, strict=True))])
def test_structures_are_kept_and_cut_together(make):
    structure = make([X, 10 * X[:, :1]])
    sets = [structure, iter([(make([X[:4], 10 * X[:4, :1]]),), (make([X[4:], 10 * X[4:, :1]]),)])]
    for x in sets:
        found = list(batches(x, 3))
        assert [rows(batch) for batch in found] == [3, 3, 1]
        for batch in found:
            assert type(batch) is type(structure)
            wide, narrow = batch.values() if isinstance(batch, dict) else batch
            np.testing.assert_array_equal(narrow, 10 * wide[:, :1])
            if isinstance(batch, dict):
                assert list(batch) == ["b", "a"]


@pytest.mark.tensorflow
def test_samples_of_another_shape_begin_a_batch_of_their_own():
    long = np.zeros((3, 5))
    found = list(batches(iter([X[:3], long, long, X[3:]]), 4))
    assert [batch.shape for batch in found] == [(3, 2), (4, 5), (2, 5), (4, 2)]


@pytest.mark.tensorflow
def test_tf_data():
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices
    check(data(X).batch(2), 3)
    check(data((X, np.arange(7))).batch(4), 3)
    check(data({"a": X, "b": X}).batch(4).map(lambda pair: pair["a"]), 2)
    (batch,) = batches(data({"a": X, "b": 2 * X}).batch(4), 10)
    np.testing.assert_array_equal(batch["b"], 2 * batch["a"])
    with pytest.raises(ValueError, match="`x` must end"):
        next(batches(data(X).batch(2).repeat(), 3))
    assert listed(data(X).batch(2).repeat(), 3, steps=5)[-1] == [[12, 13], [0, 1], [2, 3]]
    for empty in (data(X).batch(2).take(0), data(X).filter(lambda row: row[0] < 0).batch(2)):
        with pytest.raises(ValueError, match="`x` must hold at least one sample"):
            next(batches(empty, 3))


@pytest.mark.tensorflow
def test_a_torch_data_loader():
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(torch.arange(14).reshape(7, 2), torch.arange(7))
    check(torch.utils.data.DataLoader(tensors, batch_size=3), 2)


@pytest.mark.tensorflow
def test_steps_are_batches_of_the_size_asked_for_or_of_the_set():
    assert listed(X[:, 0], 3, steps=2) == [[0, 2, 4], [6, 8, 10]]
    assert listed(X[:, 0], 3, steps=9) == listed(X[:, 0], 3)
    assert listed(Sequence(X[:2, 0], X[2:4, 0], X[4:, 0]), 3, steps=2) == [[0, 2, 4], [6]]
    assert listed(Endless(X[:2, 0], X[2:3, 0]), 3, steps=3) == [[0, 2, 4], [0, 2]]


@pytest.mark.tensorflow
def test_no_more_of_a_set_is_read_than_asked_for():
    read = []

    def source():
        for number in range(10):
            read.append(number)
            yield X

    assert len(list(batches(source(), 7, steps=2))) == 2
    assert read == [0, 1]


@pytest.mark.tensorflow
def test_a_size_for_each_shape():
    """Of the rest of one shape before the next begins."""
    seen = []

    def size(sample):
        seen.append(sample.shape)
        return 3 if sample.shape[1] == 2 else 2

    parts = [X[:2], X[2:2], X[2:7], np.ones((3, 5)), X[:1]]
    assert [part.shape for part in batches((part for part in parts), size)] == [
        *[(3, 2), (3, 2), (1, 2)],
        *[(2, 5), (1, 5)],
        (1, 2),
    ]
    assert seen == [(1, 2), (1, 5), (1, 2)]


def test_the_first_sample():
    np.testing.assert_array_equal(first(X), X[:1])
    np.testing.assert_array_equal(first(Sequence(X[:1], X[1:]), count=3), X[:1])
    np.testing.assert_array_equal(first(Endless(X)), X[:1])
    structure = first({"a": X, "b": X[:, 0]})
    assert structure["a"].tolist() == [[0, 1]] and structure["b"].tolist() == [0]


@pytest.mark.tensorflow
def test_length_is_known_of_arrays_only():
    assert length(X) == length([X, X]) == length({"a": X}) == length(X.tolist()) == 7
    assert length(Sequence(X)) is length(iter([X])) is None


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "x",
    [
        X[:0],
        [X[:0]],
        {"a": X[:0]},
        iter([]),
        Sequence(),
        Sequence(X[:0]),
        [],
        {},
    ],
)
def test_nothing_is_an_error(x):
    with pytest.raises(ValueError, match="`data` must hold at least one sample"):
        next(batches(x, 3, "data"))


@pytest.mark.tensorflow
def test_lengths_that_differ_are_an_error():
    for x in ([X, X[:5]], {"a": X, "b": X[:5]}):
        with pytest.raises(ValueError, match=r"`data` must have inputs of one length.*\{5, 7\}"):
            next(batches(x, 3, "data"))


@pytest.mark.tensorflow
def test_what_holds_no_arrays_is_an_error():
    nothing = (None, 1, "text", b"text", object(), np.float32(1), {"a": [1, 2]}, [[1], [1, 2]])
    for x in (*nothing, [1, X], [None], [({}, None)]):
        with pytest.raises(TypeError, match=r"`data` must be arrays \(n, \.\.\.\), a list or dict"):
            next(batches(x, 3, "data"))
    for x in ([1, 2], [None, object()], ["text"]):  # batches that are none
        with pytest.raises((TypeError, ValueError), match="`data` must "):
            next(batches(iter(x), 3, "data"))


@pytest.mark.tensorflow
def test_a_set_that_never_ends_is_an_error():
    with pytest.raises(ValueError, match="`data` must end"):
        next(batches(Endless(X), 3, "data"))
