"""What an argument may not be, and the message that says so."""

from decimal import Decimal

import numpy as np
import pytest
from keras import ops

NAN, INF = float("nan"), float("inf")
TENSOR = ops.convert_to_tensor(0.5)
NOTHING = (None, b"1", 0.5j, {}, object(), int, Decimal("0.5"), TENSOR)  # of any use here
FLAGS = (True, np.True_)
ARRAYS = (np.array(1), np.array([1]), ops.convert_to_tensor(1))

NO_SIZE = (*NOTHING, *FLAGS, "1", 2.0, NAN, np.float32(1), (1,))  # which a tensor may be
NO_INT = (*NO_SIZE, *ARRAYS)
NO_NUMBER = (*NOTHING, *FLAGS, *ARRAYS, "0.5")
NO_PROBABILITY = (-0.01, 1.01, NAN, INF, -INF, 10**400)
NO_FLAG = (*NOTHING, *ARRAYS, "False", 0, 1, 0.5, [], np.array(True))
NO_VERBOSE = tuple(value for value in NO_FLAG if not isinstance(value, int))  # 0 and 1 are
NO_ARRAY = (None, b"1", "0.5", 0.5j, {}, object(), int, Decimal("0.5"), [[1], [1, 2]], ["1"])
NO_TEXT = (*NOTHING, *FLAGS, *ARRAYS, 0, ("unit",), np.array("unit"), np.array(["unit"]))


def refuses(call, name, values, error):
    """Asserts that `call` refuses each of the values, and names the argument and the value."""
    for value in values:
        with pytest.raises(error) as raised:
            call(value)
        message = str(raised.value)
        assert message.startswith(f"Argument `{name}` must be "), (value, message)
        assert message.endswith(f". Received: {name}={value!r}"), (value, message)
