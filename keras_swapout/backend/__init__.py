"""What differs between Keras' backends, one thin file each; everything else is `keras.ops`.

INDEX_DTYPE    an integer dtype that counts past 2**31
replica_id()   index of this replica under data parallelism, or None on a single device
replicas()     number of replicas that train in step
total(x)       the sum of x, a tensor or a list of them, over the replicas
fused(f)       f as one compiled kernel, where the backend does not fuse by itself
untaped(x)     x, unseen by a tape that records although the gradient is given
hoist(x)       x, computed once rather than again in each thread that uses it
on_replicas(m) a function that runs a batch on all replicas, or None on a single device
held(v)        what a variable holds, an array, whatever is being traced; None where nobody knows
gradient(f, x) the gradient of the sum of f(x)
once(g, f)     f(), or where `keras.remat` computes again what it was the first time, for the seed
               generator g; raises a RuntimeError where that can't be told
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_swapout.backend.tensorflow import (
        INDEX_DTYPE,
        fused,
        gradient,
        held,
        hoist,
        on_replicas,
        once,
        replica_id,
        replicas,
        total,
        untaped,
    )
elif keras.backend.backend() == "jax":
    from keras_swapout.backend.jax import (
        INDEX_DTYPE,
        fused,
        gradient,
        held,
        hoist,
        on_replicas,
        once,
        replica_id,
        replicas,
        total,
        untaped,
    )
else:
    from keras_swapout.backend.eager import (
        INDEX_DTYPE,
        fused,
        gradient,
        held,
        hoist,
        on_replicas,
        once,
        replica_id,
        replicas,
        total,
        untaped,
    )

__all__ = [
    "INDEX_DTYPE",
    "fused",
    "gradient",
    "held",
    "hoist",
    "on_replicas",
    "once",
    "replica_id",
    "replicas",
    "total",
    "untaped",
]
