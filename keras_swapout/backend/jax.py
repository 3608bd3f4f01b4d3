"""JAX: `jit` fuses by itself, and a sharded array keeps its global index."""

import jax

INDEX_DTYPE = "uint32"


def replica_id():
    return None


def replicas():
    return 1


def fused(function):
    return function


def hoist(x):
    return jax.lax.optimization_barrier(x)


def untaped(x):
    return x


def on_replicas(model):
    return None
