"""What differs between Keras' backends, one thin file each; everything else is `keras.ops`.

INDEX_DTYPE    an integer dtype that counts past 2**31
replica_id()   index of this replica under data parallelism, or None on a single device
replicas()     number of replicas that train in step
fused(f)       f as one compiled kernel, where the backend does not fuse by itself
untaped(x)     x, unseen by a tape that records although the gradient is given
hoist(x)       x, computed once rather than again in each thread that uses it
on_replicas(m) a function that runs a batch on all replicas, or None on a single device
"""

import keras

if keras.backend.backend() == "tensorflow":
    from keras_swapout.backend.tensorflow import (
        INDEX_DTYPE,
        fused,
        hoist,
        on_replicas,
        replica_id,
        replicas,
        untaped,
    )
elif keras.backend.backend() == "jax":
    from keras_swapout.backend.jax import (
        INDEX_DTYPE,
        fused,
        hoist,
        on_replicas,
        replica_id,
        replicas,
        untaped,
    )
else:
    from keras_swapout.backend.eager import (
        INDEX_DTYPE,
        fused,
        hoist,
        on_replicas,
        replica_id,
        replicas,
        untaped,
    )

__all__ = ["INDEX_DTYPE", "fused", "hoist", "on_replicas", "replica_id", "replicas", "untaped"]
