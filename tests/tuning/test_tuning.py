"""Search spaces and hypermodels of KerasTuner.

KerasTuner swallows what a trial raises, so each search is checked to have completed its trials.
"""

import functools

import keras
import numpy as np
import pytest
from refusals import INF, NAN, NO_FLAG, NO_INT, NO_NUMBER, NO_PROBABILITY, NO_TEXT, refuses

import keras_swapout as ks

keras_tuner = pytest.importorskip("keras_tuner", reason='pip install "keras-swapout[tuner]"')
from keras_swapout.tuning import hypermodels  # noqa: E402

tuning = ks.tuning
pytestmark = [pytest.mark.tensorflow, pytest.mark.usefixtures("little_garbage")]

WITHOUT_AND_WITH_TUNER = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "keras_tuner":
            raise ImportError("No module named 'keras_tuner'")

sys.meta_path.insert(0, Absent())
import keras_swapout as ks
try:
    ks.tuning.SwapoutHyperModel
except ImportError as error:
    said = str(error)
del sys.meta_path[0]
ks.tuning.SwapoutHyperModel
print(json.dumps([said, "keras_tuner" in sys.modules]))
"""


def hyperparameters(**values):
    hp = keras_tuner.HyperParameters()
    hp.values |= values
    return hp


def space(hp):
    return {p.name: p for p in hp.space}


@pytest.fixture(scope="module")
def data():
    """Three noisy 8x8 patterns: 32 samples for training, 32 for validation."""
    rng = np.random.default_rng(0)
    y = np.arange(64) % 3
    x = rng.normal(size=(3, 8, 8, 1))[y] + rng.normal(0, 0.5, (64, 8, 8, 1))
    x, y = x.astype("float32"), y.astype("int32")
    return dict(x=x[:32], y=y[:32], validation_data=(x[32:], y[32:]), batch_size=16, verbose=0)


class Counted(keras.losses.Loss):
    """Cross entropy, and how often it was traced: its Python code runs at no other time."""

    def __init__(self):
        super().__init__()
        self.traces = 0

    def call(self, y_true, y_pred):
        self.traces += 1
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred)


def compiled(model, loss, learning_rate=0.1):
    optimizer = keras.optimizers.SGD(learning_rate, momentum=0.9)
    model.compile(optimizer, loss or Counted(), metrics=["accuracy"], jit_compile=False)
    return model


def swapout_builder(loss=None, learning_rates=None):
    """build(hp, merge) of a network of three blocks."""

    def build(hp, merge):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Dense(6, activation="relu")(keras.layers.Flatten()(inputs))
        for block in range(3):
            x = merge(block, 3)([x, keras.layers.Dense(6)(x)])
        rate = hp.Choice("learning_rate", learning_rates) if learning_rates else 0.1
        return compiled(
            keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x)), loss, rate
        )

    return build


def rblock_builder(loss=None):
    """build(hp, drop, alpha) of a network of one convolution."""

    def build(hp, drop, alpha):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Flatten()(drop(keras.layers.Conv2D(3, 3, activation="relu")(inputs)))
        return compiled(
            ks.RBlock(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x)), alpha),
            loss,
        )

    return build


def search(tuner, **data):
    """The finished trials, in their order; all of them completed."""
    tuner.search(**data)
    done = [tuner.oracle.trials[name] for name in tuner.oracle.end_order]
    failed = [trial.message for trial in done if trial.status != "COMPLETED"]
    assert not failed, failed[0]
    return done


# --- spaces --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, values, expected",
    [
        (dict(), dict(theta_stop=0.5), np.linspace(1, 0.5, 7)),
        (dict(start=(0.8, 1.0)), dict(theta_start=0.9, theta_stop=0.3), np.linspace(0.9, 0.3, 7)),
        (dict(name="p", start=0.7), dict(p_stop=0.4), np.linspace(0.7, 0.4, 7)),
        (dict(kind="constant"), dict(theta=0.6), np.full(7, 0.6)),
        (dict(kind="stage"), dict(theta_stage_1=0.9, theta_stage_2=0.7, theta_stage_3=0.5),
         np.repeat([0.9, 0.7, 0.5], [3, 2, 2])),
        (dict(kind="stage", stages=1), dict(theta_stage_1=0.4), np.full(7, 0.4)),
        (dict(theta=0.5), dict(), np.linspace(1, 0.5, 7)),
        (dict(theta=0.5, kind="constant"), dict(), np.full(7, 0.5)),
    ],
)  # fmt: skip
def test_theta_schedule(arguments, values, expected):
    hp = hyperparameters(**values)
    theta = tuning.theta_schedule(hp, 7, **arguments)
    np.testing.assert_allclose(theta, expected, rtol=1e-12)
    assert set(space(hp)) == set(values)  # and a fixed number is not searched
    for name, parameter in space(hp).items():
        low, high = (0.8, 1.0) if name == "theta_start" else (0.3, 1.0)
        assert isinstance(parameter, keras_tuner.engine.hyperparameters.Float)
        assert (parameter.min_value, parameter.max_value, parameter.default) == (low, high, high)
    if arguments.get("kind", "linear") == "linear":
        assert theta == ks.schedules.linear(theta[0], theta[-1], 7)


def test_stages_are_of_equal_length():
    for blocks, stages in [(9, 3), (6, 6), (10, 4)]:
        hp = hyperparameters(**{f"theta_stage_{i + 1}": 1 - i / 10 for i in range(stages)})
        theta = tuning.theta_schedule(hp, blocks, kind="stage", stages=stages)
        lengths = np.unique(theta, return_counts=True)[1]
        assert len(lengths) == stages and lengths.max() - lengths.min() <= 1
        assert theta == sorted(theta, reverse=True)


def test_other_spaces():
    hp = hyperparameters()
    assert tuning.drop_rate(hp, rate=(0.1, 0.4), step=0.1) == 0.1
    assert tuning.block_size(hp, block_size=(3, 7), step=2) == 3
    assert tuning.alpha(hp, alpha=(0.1, 1.0)) == 0.1
    fixed = tuning.drop_rate(hp, "r", 0.2), tuning.block_size(hp, "b", 5), tuning.alpha(hp, "a", 0)
    assert fixed == (0.2, 5, 0.0)
    found = space(hp)
    assert set(found) == {"rate", "block_size", "alpha"}
    np.testing.assert_allclose(list(found["rate"].values), [0.1, 0.2, 0.3, 0.4])
    assert tuple(found["block_size"].values) == (3, 5, 7)
    alpha = found["alpha"]
    assert (alpha.min_value, alpha.max_value, alpha.sampling) == (0.1, 1.0, "log")


RANGES = {"theta": NO_PROBABILITY, "start": NO_PROBABILITY, "rate": (*NO_PROBABILITY, 1.0)}
RANGES |= {"alpha": (-0.01, NAN, INF, 10**400), "block_size": (0, -1)}
ARGUMENTS = [  # function, what it needs, ranges, ints, other arguments
    (tuning.theta_schedule, {"num": 3}, ("theta", "start"), ("num", "stages"), ("kind", "step")),
    (tuning.drop_rate, {}, ("rate",), (), ("step",)),
    (tuning.block_size, {}, ("block_size",), ("step",), ()),
    (tuning.alpha, {}, ("alpha",), (), ()),
    (tuning.SwapoutHyperModel, {"build": print}, ("theta", "start"), ("stages",),
     ("kind", "step", "build", "merges", "reuse", "granularity")),
    (tuning.RBlockHyperModel, {"build": print}, ("rate", "alpha", "block_size"), (),
     ("build", "layers", "reuse")),
]  # fmt: skip


@pytest.mark.parametrize("function, least, ranges, ints, others", ARGUMENTS)
def test_bad_arguments(function, least, ranges, ints, others):
    if "build" not in least:
        refuses(
            function if not least else lambda hp: function(hp, **least), "hp", NO_TEXT, TypeError
        )
        least = {"hp": hyperparameters(), **least}
        refuses(lambda name: function(**least, name=name), "name", NO_TEXT, TypeError)

    def wrong(name, types, values):
        for error, refused in ((TypeError, types), (ValueError, values)):
            refuses(lambda value: function(**{**least, name: value}), name, refused, error)

    for name in ranges:
        types = NO_INT if name == "block_size" else NO_NUMBER
        wrong(name, [x for x in types if not isinstance(x, tuple)], (*RANGES[name], (5, 2)))
        for bad in (*RANGES[name], None, "0.5", True, (1, 2)):
            for pair in ((bad, 1), [1, bad]):
                with pytest.raises((TypeError, ValueError), match=rf"^Argument `{name}` must be "):
                    function(**{**least, name: pair})
    for name in ints:
        wrong(name, NO_INT, (0, -1) if name == "step" else (0, -1, 10**30))
    names = [x for x in NO_TEXT if not isinstance(x, (tuple, np.ndarray))]
    wrongs = {
        "kind": (NO_TEXT, ("cosine", "")),
        "step": ([x for x in NO_NUMBER if x is not None], (0, -0.1, NAN, 1.5)),
        "granularity": ([x for x in NO_TEXT if x is not None], ("pixel", "")),
        "merges": (names, ((), ["swapout", "swapout"])),
        "layers": (names, ((), ["sdropdml", "sdropdml"])),
        "build": ([x for x in (*NO_TEXT, "build") if not callable(x)], ()),
        "reuse": (NO_FLAG, ()),
    }
    for name in others:
        wrong(name, *wrongs[name])
    if {"merges", "layers"} & {*others}:
        name = "merges" if "merges" in others else "layers"
        for names in ("add", ["add"], [1], [None], [["swapout"]]):
            with pytest.raises((TypeError, ValueError), match=f"`{name}` must be one or more of"):
                function(**least, **{name: names})


def test_arguments_that_do_not_fit_each_other():
    refuses(lambda n: tuning.theta_schedule(hyperparameters(), 2, kind="stage", stages=n), "stages",
            (3,), ValueError)  # fmt: skip
    refuses(lambda step: tuning.theta_schedule(hyperparameters(), 2, step=step), "step", (0.8,),
            ValueError)  # fmt: skip
    refuses(lambda x: tuning.alpha(hyperparameters(), alpha=x), "alpha", ((0, 1),), ValueError)


def test_models_to_start_as():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    compiled = keras.models.clone_model(model)
    compiled.compile("sgd", "mse")
    for call, name in (
        (lambda model: tuning.start_as(model, compiled), "model"),
        (lambda model: tuning.start_as(compiled, model), "new"),
    ):
        refuses(call, name, (*NO_TEXT, keras.Model, keras.layers.Dense(1)), TypeError)
        refuses(call, name, (model,), ValueError)


# --- searches ------------------------------------------------------------------------------------

TUNERS = {
    "random": functools.partial(keras_tuner.RandomSearch, max_trials=3, seed=1),
    "bayes": functools.partial(
        keras_tuner.BayesianOptimization, max_trials=3, num_initial_points=2, seed=1
    ),
    "hyperband": functools.partial(keras_tuner.Hyperband, max_epochs=2, factor=2, seed=1),
    "grid": functools.partial(keras_tuner.GridSearch, max_trials=3),
}
CONSISTENT = keras_tuner.Objective("consistency", "min")
BOTH = [keras_tuner.Objective("val_loss", "min"), keras_tuner.Objective("val_accuracy", "max")]


@pytest.mark.parametrize(
    "name, kind, objective",
    [
        ("random", "swapout", BOTH),
        ("bayes", "rblock", CONSISTENT),
        ("grid", "swapout", "val_accuracy"),
    ],
)
def test_tuners_and_objectives(name, kind, objective, data, tmp_path):
    if kind == "swapout":
        model = tuning.SwapoutHyperModel(swapout_builder(), kind="stage", step=0.1)
    else:
        model = tuning.RBlockHyperModel(rblock_builder(), layers="dropblock", block_size=3)
    trials = search(TUNERS[name](model, objective, directory=tmp_path), **data)
    values = [trial.hyperparameters.values for trial in trials]
    ours = [{k: v for k, v in value.items() if not k.startswith("tuner/")} for value in values]
    assert {len(value) for value in ours} == {6 if kind == "swapout" else 2}
    assert len({str(value) for value in ours}) > 2
    if objective is CONSISTENT:
        assert min(trial.score for trial in trials) > 0


@pytest.mark.parametrize(
    "make, builder, name, only",
    [
        (tuning.SwapoutHyperModel, swapout_builder, "hyperband", dict(start=(0.7, 1.0))),
        (tuning.RBlockHyperModel, rblock_builder, "random", dict(layers="bdropdml")),
    ],
)
def test_trials_share_a_step_and_nothing_else(make, builder, name, only, data, tmp_path):
    scores, traces = [], []
    for reuse in (False, True):
        loss = Counted()
        model = make(builder(loss), reuse=reuse, **only)
        tuner = TUNERS[name](model, "val_loss", directory=tmp_path / str(reuse))
        trials = search(tuner, **data)
        scores.append([(trial.hyperparameters.values, trial.score) for trial in trials])
        traces.append(loss.traces)
    for (value, alone), (shared, score) in zip(*scores, strict=True):
        assert shared == value and score == pytest.approx(alone, rel=1e-4)
    assert len({score for _, score in scores[0]}) > 2
    assert traces[0] == traces[1] * len(trials)  # shared, as many as one trial alone

    predictions = []
    for model, trial in zip(tuner.get_best_models(2), tuner.oracle.get_best_trials(2), strict=True):
        loss = model.evaluate(*data["validation_data"], verbose=0, return_dict=True)["loss"]
        assert loss == pytest.approx(trial.score, rel=1e-4)
        predictions.append(model.predict(data["x"], verbose=0))
        values = trial.hyperparameters.values
        layers = getattr(model, "model", model).layers
        found = [layer.adjustments() for layer in layers if hasattr(layer, "adjustments")]
        if make is tuning.RBlockHyperModel:
            assert found == [dict(rate=values["rate"])] and model.alpha == values["alpha"]
            continue
        for theta in ("theta_1", "theta_2"):
            expected = np.linspace(values[f"{theta}_start"], values[f"{theta}_stop"], 3)
            np.testing.assert_allclose([layer[theta] for layer in found], expected)
    assert np.abs(predictions[0] - predictions[1]).max() > 1e-3


def test_a_network_that_knows_nothing_of_merges(data, tmp_path):
    loss = Counted()

    def build(hp):
        # The merges of `swapout_builder`, as additions.
        return swapout_builder(loss, [0.01])(hp, lambda block, blocks: keras.layers.Add())

    model = tuning.SurgeryHyperModel(build, kind="constant")
    tuner = keras_tuner.RandomSearch(model, "val_loss", 3, seed=0, directory=tmp_path)
    trials = search(tuner, **data)
    assert set(trials[0].hyperparameters.values) == {"theta_1", "theta_2", "learning_rate"}
    assert len({trial.score for trial in trials}) == 3
    assert loss.traces <= 3  # to build, to train and to validate, once for all trials
    (best,) = tuner.get_best_models()
    values = tuner.get_best_hyperparameters()[0].values
    merges = [layer for layer in best.layers if isinstance(layer, ks.layers.Swapout)]
    assert [layer.theta_2 for layer in merges] == [pytest.approx(values["theta_2"])] * 3
    assert all(layer.rescale for layer in merges)
    assert best.optimizer.momentum == 0.9 and best.loss is loss
    assert [metric.name for metric in best.metrics] == ["loss", "compile_metrics"]
    plain = build(keras_tuner.HyperParameters())
    rebuilt = model.build(keras_tuner.HyperParameters())
    np.testing.assert_array_equal(plain(data["x"][:5]), rebuilt(data["x"][:5]))


def test_a_search_of_ones_own_beside_ours(data, tmp_path):
    """Two learning rates are two compiled steps, however many thetas there are."""
    traces = []
    for learning_rates, count in [([0.01], 1), ([0.01, 0.1], 4)]:
        loss = Counted()
        builder = swapout_builder(loss, learning_rates)
        model = tuning.SwapoutHyperModel(builder, kind="constant", step=0.35)
        tuner = keras_tuner.GridSearch(model, "val_loss", count, directory=tmp_path / str(count))
        trials = search(tuner, **data)
        traces.append(loss.traces)
    rates = [trial.hyperparameters.values["learning_rate"] for trial in trials]
    assert sorted(rates) == [0.01, 0.01, 0.1, 0.1] and traces[1] == 2 * traces[0]
    (model,), (trial,) = tuner.get_best_models(), tuner.oracle.get_best_trials()
    rate = trial.hyperparameters.values["learning_rate"]
    assert float(model.optimizer.learning_rate) == pytest.approx(rate)


def test_trials_share_a_step_of_a_space_known_before(data, tmp_path):
    """As when a search is taken up again, or has `hyperparameters=`."""
    tuning.SwapoutHyperModel(swapout_builder()).build(hp := hyperparameters())
    loss, traces = Counted(), []
    model = tuning.SwapoutHyperModel(swapout_builder(loss))
    note = keras.callbacks.LambdaCallback(on_train_end=lambda logs: traces.append(loss.traces))
    tuner = keras_tuner.RandomSearch(
        model, "val_loss", max_trials=2, hyperparameters=hp, directory=tmp_path
    )
    search(tuner, **data, callbacks=[note])
    assert traces[0] == traces[1]


# --- what is searched where it matters alone -----------------------------------------------------


class Untrained(keras_tuner.Tuner):
    """Builds a model too small to speak of, and trains none."""

    def run_trial(self, trial):
        self.hypermodel.build(trial.hyperparameters)
        return 0.0


class UntrainedGrid(Untrained, keras_tuner.GridSearch):
    pass


class UntrainedRandom(Untrained, keras_tuner.RandomSearch):
    pass


def merged(hp, merge):
    inputs = keras.Input((2,))
    return keras.Model(inputs, merge(0, 1)([inputs, inputs]))


def dropped(hp, drop, alpha):
    inputs = keras.Input((2, 2, 1))
    return keras.Model(inputs, drop(inputs))


@pytest.mark.parametrize(
    "merges",
    [
        ("swapout", "stochastic_depth"),
        ("skip_forward", "residual_dropout"),
    ],
)
def test_grid_over_merges_is_complete(merges, tmp_path):
    """Three values for each theta: 3^2 settings of a merge with two thetas, 3 of one with one."""
    model = tuning.SwapoutHyperModel(merged, merges, "constant", step=0.35)
    trials = search(UntrainedGrid(model, max_trials=20, directory=tmp_path))
    thetas = {merge: hypermodels.MERGES[merge][1] for merge in merges}
    assert len(trials) == sum(3 ** len(names) for names in thetas.values())
    seen = set()
    for trial in trials:
        values = dict(trial.hyperparameters.values)
        merge = values.pop("merge")
        assert len(values) == len(thetas[merge])
        assert all(min(abs(v - w) for w in (0.3, 0.65, 1.0)) < 1e-9 for v in values.values())
        seen.add((merge, *(round(v, 2) for v in values.values())))
    assert len(seen) == len(trials)


@pytest.mark.parametrize("choice", ["merge", "layer"])
def test_every_conditional_hyperparameter_is_searched(choice, tmp_path):
    if choice == "merge":
        where = {name: hypermodels.MERGES[name][1] for name in ("swapout", "stochastic_depth")}
        model = tuning.SwapoutHyperModel(merged, tuple(where), "stage", stages=1)
        where = {key: [f"{key}_{v}_stage_1" for v in values] for key, values in where.items()}
    else:
        where = {key: ["block_size"] * blocks for key, (_, blocks) in hypermodels.REGIONS.items()}
        where = {key: ["rate", "alpha", *value] for key, value in where.items()}
        model = tuning.RBlockHyperModel(dropped, tuple(where))
    tuner = UntrainedRandom(model, max_trials=12, seed=1, directory=tmp_path)
    values = [trial.hyperparameters.values for trial in search(tuner)]
    assert len(values) == 12
    for value in values:
        assert set(value) == {choice, *where[value[choice]]}
    for parameter in {choice}.union(*where.values()):
        tried = {value[parameter] for value in values if parameter in value}
        assert len(tried) > 1, parameter


# --- the package ---------------------------------------------------------------------------------


def test_the_tuner_is_imported_when_asked_for_and_if_not_there_what_to_install(
    start_python, result
):
    said, imported = result(start_python(WITHOUT_AND_WITH_TUNER))
    assert 'pip install "keras-swapout[tuner]"' in said and imported
