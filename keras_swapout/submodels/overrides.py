"""Another `call` for some layers, for who asks for it and for no other thread."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras

Call = Callable[..., Any]

#: By the layer's id. A context variable: another thread, which may be in `fit`, sees none of it.
_calls: contextvars.ContextVar[Mapping[int, Call]] = contextvars.ContextVar(
    "calls", default=types.MappingProxyType({})
)
#: The layers that look into it, by id, and how many ask for it: the last one to leave undoes it.
_looking: dict[int, list[Any]] = {}
_lock = threading.Lock()


@contextlib.contextmanager
def overridden(
    layers: Iterable[keras.Layer], change: Callable[[keras.Layer, Call], Call]
) -> Iterator[None]:
    """Within, the `call` of each layer is `change(layer, call)`, wherever in a model it is called.

    It counts where a network is traced, so have it within what is compiled. Overrides of several
    threads may overlap, and end in any order; those of one thread add up.
    """
    with contextlib.ExitStack() as stack:
        calls = dict(_calls.get())
        for layer in layers:
            original = stack.enter_context(_looks(layer))
            calls[id(layer)] = change(layer, calls.get(id(layer), original))
        token = _calls.set(calls)
        try:
            yield
        finally:
            _calls.reset(token)


@contextlib.contextmanager
def _looks(layer):
    key = id(layer)
    with _lock:
        if key not in _looking:
            own, original = vars(layer).get("call"), layer.call

            @functools.wraps(original)
            def call(*args, **kwargs):
                return _calls.get().get(key, original)(*args, **kwargs)

            # Past Keras' own __setattr__, which would look for weights in it.
            vars(layer)["call"] = call
            _looking[key] = [0, layer, own, original]
        _looking[key][0] += 1
        original = _looking[key][-1]
    try:
        yield original
    finally:
        with _lock:
            _looking[key][0] -= 1
            if not _looking[key][0]:
                own = _looking.pop(key)[2]
                vars(layer).pop("call", None)
                if own is not None:
                    vars(layer)["call"] = own


def at_inference(layer: keras.Layer, call: Call) -> Call:
    """The call in inference mode, whatever the mode is; as it is where it has none."""
    if "training" not in inspect.signature(call).parameters:
        return call
    return lambda *args, **kwargs: call(*args, **{**kwargs, "training": False})
