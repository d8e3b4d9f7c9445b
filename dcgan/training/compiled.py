"""Many iterations as one call of the device.

`Model.train_on_batch` costs 5 to 20 ms of Python, whatever the network; a fast GPU is
through with a whole iteration in 1 to 4 ms. Here an iteration is traced once, through
the `train_step` that `train_on_batch` itself calls, and K of them become one compiled
function. Both ways move the weights alike; a test holds them to it.
"""

import numpy as np

from dcgan.training.devices import has_gpu
from models import keras


def plain(gan, step):
    """Return call(batches) that runs `step` K times through `train_on_batch`.

    step: step(gan, batch, train) is one iteration on {name: array}; it returns
    {score: number}, and trains by train(model, x, y), which returns {metric: number}.
    batches: {name: (K, ...)}. The call returns {score: (K,)}.
    """

    def train(model, x, y):
        return model.train_on_batch(x, y, return_dict=True)

    def call(batches):
        return _stacked(np.stack, [step(gan, b, train) for b in unstacked(batches)])

    return call


def fused(gan, step, whole=None):
    """Return a call like plain()'s that is one call of the device.

    It comes back before the device is through; reading a score waits for it. Each new K
    is compiled anew. On PyTorch the K iterations are run one by one, but without
    train_on_batch. With several devices, `whole` is how JAX lays the variables out.
    """
    if keras.backend.backend() == "jax":
        return _jax(gan, step, whole)
    make = {"tensorflow": _tensorflow, "torch": _torch}
    return make[keras.backend.backend()](gan, step)


def variables_of(gan):
    """List every variable that an iteration changes, each once."""
    owners = (gan.generator, gan.discriminator, gan.average)
    owners += (gan.judge.optimizer, gan.d_on_g.optimizer)
    found = [variable for owner in owners for variable in owner.variables]
    return found + gan.judge.metrics_variables + gan.d_on_g.metrics_variables


def _tensorflow(gan, step):
    import tensorflow as tf

    names = []

    def iterate(batches, k, rows):
        scores = step(gan, {name: batches[name][k] for name in batches}, _train_step)
        names[:] = scores
        return k + 1, rows.write(k, tf.stack(list(scores.values())))

    # Made anew for every Gan: a second training in a process has variables of its own
    @tf.function(jit_compile=_xla_helps(), autograph=False)
    def run(batches):
        steps = next(iter(batches.values())).shape[0]
        rows = tf.TensorArray("float32", size=steps)
        _, rows = tf.while_loop(
            lambda k, _: k < steps,
            lambda k, rows: iterate(batches, k, rows),
            (0, rows),
        )
        return rows.stack()

    def call(batches):
        rows = run(batches)
        return {name: rows[:, number] for number, name in enumerate(names)}

    return call


def _xla_helps():
    """Tell whether to compile for TensorFlow: XLA joins the many small operations on a
    GPU. On a CPU it computes convolutions inside a loop on one core: 10 times slower.
    """
    return has_gpu()


def _train_step(model, x, y):
    """Train on one batch as train_on_batch does, inside a traced function."""
    model.reset_metrics()
    return model.train_step((x, y))


def _jax(gan, step, whole):
    import jax

    variables, names = variables_of(gan), []

    def train(model, x, y):
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

    def iterate(values, batch):
        mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=mapping) as scope:
            scores = step(gan, batch, train)
        names[:] = scores  # JAX sorts what it returns
        return [scope.get_current_value(variable) for variable in variables], scores

    def scan(values, batches):
        return jax.lax.scan(iterate, values, batches)

    run = jax.jit(scan, donate_argnums=0, out_shardings=whole)

    def call(batches):
        values, scores = run([variable.value for variable in variables], batches)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return {name: scores[name] for name in names}

    return call


def _torch(gan, step):
    # torch.compile of the step took a minute to begin and then 10 % longer: Keras'
    # layers make it compile again and again until it gives up
    import torch

    def call(batches):
        scores = [step(gan, batch, _train_step) for batch in unstacked(batches)]
        with torch.no_grad():
            return _stacked(torch.stack, scores)

    return call


def unstacked(batches):
    """Yield K dicts of one iteration each."""
    for k in range(len(next(iter(batches.values())))):
        yield {name: batches[name][k] for name in batches}


def _stacked(stack, rows):
    return {name: stack([row[name] for row in rows]) for name in rows[0]}
