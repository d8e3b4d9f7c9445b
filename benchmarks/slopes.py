"""Draw docs/minimax.png, what G is told by two losses: python -m benchmarks.slopes"""

import numpy as np
from matplotlib.figure import Figure

from dcgan.networks.backend import ops
from dcgan.networks.losses import loss_named

DRAWN = {"minimax": "minimax: ln(1 - P)", "cross-entropy": "cross-entropy: -ln P"}


def main():
    logit = np.linspace(-8, 8, 1601, dtype="float32")[:, None]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    cost, slope = figure.subplots(1, 2, sharex=True)
    for name, label in DRAWN.items():
        told = loss_named(name).g(np.ones_like(logit), logit)
        told = np.ravel(ops.convert_to_numpy(told))
        cost.plot(logit, told, label=label)
        slope.plot(logit, np.abs(np.gradient(told, logit[:, 0])), label=label)
    cost.set(ylabel="what a face costs G")
    slope.set(ylabel="how much G is told: the slope's size")
    for axes in (cost, slope):
        axes.axvspan(-8, -3, color="0.93")
        axes.set(xlabel="D's logit of a face of G: surely fake ... surely real")
        axes.grid(alpha=0.3)
    cost.legend(frameon=False)
    figure.savefig("docs/minimax.png", dpi=80)


if __name__ == "__main__":
    main()
