"""Many iterations as one call of the device.

By `Model.train_on_batch` an iteration costs 4 to 50 ms of Python; a fast GPU is through
with all of it in 1 to 4 ms. Here an iteration is traced once, through the `train_step`
that `train_on_batch` itself calls, and K of them become one compiled function. Both
ways move the weights alike; a test holds them to it.
"""

import functools

import numpy as np

from dcgan.networks.backend import keras, on_cpu, ops
from dcgan.training.hardware import has_gpu


class Calls:
    """The iterations of a run, many as one call of the device.

    The scores of a call are read when the next one is under way, so that the device has
    always something to do. steps: iterations a call; 1 is plain train_on_batch, unless
    several devices train. faces: those of the run on the device, if Batches put them
    there.
    """

    def __init__(self, gan, step, device, steps, faces=None):
        if steps == 1 and device.count == 1:
            self._run = plain(gan, step, faces)
        else:
            self._run = fused(gan, step, device.replicated, faces)
            if has_gpu():
                print("Compiling  the first call; it may take a minute.", flush=True)
        self._scores = None

    def start(self, batches):
        """Start a call on {name: (K, ...)}; return the scores of the one before.

        {name: (K,) array}, or None if there was none.
        """
        before, self._scores = self._scores, self._run(batches)
        return _read(before)

    def finish(self):
        """Wait for the call that is under way, if one is; return its scores or None."""
        before, self._scores = self._scores, None
        return _read(before)


def _read(scores):
    to_numpy = keras.ops.convert_to_numpy  # PyTorch's on a GPU are none of NumPy's
    return scores and {name: to_numpy(row) for name, row in scores.items()}


def plain(gan, step, faces=None):
    """Return run(batches) that makes K iterations through `train_on_batch`.

    step: step(gan, batch, train_on) is one iteration on {name: array}; it trains by
    train_on(model, x, y), which returns {metric: number}, and returns {score: number}.
    batches: {name: (K, ...)}; faces (N, S, S, C) uint8: where their "places" are, if
    they have no "real" faces. run() returns {score: (K,)}.
    """

    def train_on(model, x, y):
        return model.train_on_batch(x, y, return_dict=True)

    def run(batches):
        rows = [
            step(gan, with_real(batch, faces), train_on) for batch in unstacked(batches)
        ]
        return _stacked(np.stack, rows)

    return run


def with_real(batch, faces):
    """Give a batch that has the places of its faces the faces themselves."""
    if faces is None:
        return batch
    return {**batch, "real": ops.take(faces, batch["places"], axis=0)}


def fused(gan, step, replicated=None, faces=None):
    """Return run(batches) like plain()'s that is one call of the device.

    It comes back before the device is through; reading a score waits for it. Each new K
    is compiled anew. On PyTorch the K iterations are run one by one, but without
    train_on_batch. replicated: how JAX lays the variables out over several devices.
    """
    if keras.backend.backend() == "jax":
        return _jax(gan, step, replicated, faces)
    make = {"tensorflow": _tensorflow, "torch": _torch}
    return make[keras.backend.backend()](gan, step, faces)


def variables_of(gan):
    """List every variable that an iteration changes, each once.

    But for the metrics', which each step begins with anew.
    """
    owners = (gan.generator, gan.discriminator, gan.average)
    owners += (gan.judge.optimizer, gan.d_on_g.optimizer)
    return [variable for owner in owners for variable in owner.variables]


def _tensorflow(gan, step, faces):
    import tensorflow as tf

    names = []

    def iterate(batches, k, rows):
        batch = {name: batches[name][k] for name in batches}
        scores = step(gan, with_real(batch, faces), _train_step)
        names[:] = scores
        return k + 1, rows.write(k, tf.stack(list(scores.values())))

    # Made anew for every Gan: a second training in a process has variables of its own
    @tf.function(jit_compile=xla_helps(), autograph=False)
    def iterate_all(batches):
        steps = next(iter(batches.values())).shape[0]
        rows = tf.TensorArray("float32", size=steps)
        _, rows = tf.while_loop(
            lambda k, _: k < steps,
            lambda k, rows: iterate(batches, k, rows),
            (0, rows),
        )
        return rows.stack()

    def run(batches):
        rows = iterate_all(batches)
        return {name: rows[:, number] for number, name in enumerate(names)}

    return run


def xla_helps():
    """Tell whether to compile for TensorFlow: XLA joins the many small operations on a
    GPU. On a CPU it computes convolutions inside a loop on one core: 10 times slower.
    """
    return has_gpu()


def _train_step(model, x, y):
    """Train on one batch as train_on_batch does, inside a traced function."""
    model.reset_metrics()
    return model.train_step((x, y))


def _jax(gan, step, replicated, faces):
    import jax

    variables, names = variables_of(gan), []

    def iterate(values, batch, faces):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            scores = step(gan, with_real(batch, faces), _jax_train_step)
        names[:] = scores
        values = [scope.get_current_value(variable) for variable in variables]
        return values, jax.numpy.stack(list(scores.values()))

    def iterate_at(k, values, batches, faces):
        return iterate(values, {name: batches[name][k] for name in batches}, faces)

    def scan(values, batches, faces):
        def each(values, batch):
            return iterate(values, batch, faces)

        return jax.lax.scan(each, values, batches)

    compiled = functools.partial(jax.jit, out_shardings=replicated)
    one, all_at_once = (
        compiled(iterate_at, donate_argnums=1),
        compiled(scan, donate_argnums=0),
    )

    def one_by_one(values, batches, faces):
        rows = []
        for k in range(len(next(iter(batches.values())))):
            values, scores = one(k, values, batches, faces)
            rows.append(scores)
        return values, jax.numpy.stack(rows)

    # On CPUs XLA is many times slower at what stands in a loop
    iterate_all = one_by_one if on_cpu() else all_at_once

    def run(batches):
        values = [variable.value for variable in variables]
        # The faces are handed over: what is closed over becomes part of the program
        values, scores = iterate_all(values, batches, faces)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return {name: scores[:, number] for number, name in enumerate(names)}

    return run


def _jax_train_step(model, x, y):
    """Train on one batch inside a traced function, and in a StatelessScope."""
    model.reset_metrics()
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    logs, state = model.train_step(state, (x, y))
    for group, values in zip(groups, state, strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)
    return logs


def _torch(gan, step, faces):
    # torch.compile of the step took a minute to begin and then 10 % longer: Keras'
    # layers make it compile again and again until it gives up
    import torch

    def run(batches):
        rows = [
            step(gan, with_real(batch, faces), _train_step)
            for batch in unstacked(batches)
        ]
        with torch.no_grad():
            return _stacked(torch.stack, rows)

    return run


def unstacked(batches):
    """Yield K dicts of one iteration each."""
    for k in range(len(next(iter(batches.values())))):
        yield {name: batches[name][k] for name in batches}


def _stacked(stack, rows):
    return {name: stack([row[name] for row in rows]) for name in rows[0]}
