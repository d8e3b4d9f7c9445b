"""What the two networks minimize: one table, LOSSES, of which a loss is a row.

To add a loss, write what it makes of a label and of D's logit, and a row. D's loss is
the mean of what real and fake faces cost.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

from dcgan.common.console import UserError
from dcgan.networks.backend import keras, layers, ops


class Loss(NamedTuple):
    """All that is known of a loss. d and g map a label, 1 for real and 0 for fake, and
    D's logit, both (n, 1) float32, to what each face costs, (n, 1).
    """

    d: Callable  # what D minimizes
    g: Callable  # what G minimizes; its faces are labelled 1
    undecided: float  # D's loss where all logits are the border: a line in losses.png
    border: float = 0.0  # D calls a face real if its logit lies above
    share: float = 0.5  # D minimizes the mean of both kinds: this times the paper's sum
    pairs: bool = False  # it judges pairs, by how much realer one is than the other
    labels: tuple = ("LABEL_SMOOTHING", "LABEL_FLIPPING")  # those that it can use


def cross_entropy(label, logit):
    """-ln P(label), where P(real) is the sigmoid of the logit."""
    return ops.binary_crossentropy(label, logit, from_logits=True)


def saturating(label, logit):
    """ln(1 - P(label)), which is ln(1 - P(real)) of G's faces."""
    return -ops.softplus((2 * label - 1) * logit)


def squares(label, logit):
    """(D - label)^2. Half of it on real, half on fake is Mao's equation 9."""
    return ops.square(logit - label)


def half_squares(label, logit):
    """(D - label)^2 / 2, Mao's equation 9 for the generator."""
    return ops.square(logit - label) / 2


def hinge(label, logit):
    """max(0, 1 - D) for the label 1, max(0, 1 + D) for 0 (Miyato's equation 16)."""
    return ops.relu(1 - (2 * label - 1) * logit)


def linear(label, logit):
    """-D for the label 1 (Miyato's equation 17), D for 0."""
    return -(2 * label - 1) * logit


LOSSES = {
    # Goodfellow et al. 2014: the non-saturating one, and their equation 1
    "cross-entropy": Loss(cross_entropy, cross_entropy, undecided=math.log(2)),
    "minimax": Loss(cross_entropy, saturating, undecided=math.log(2)),
    # Mao et al. 2017, with the targets 1 and 0
    "least-squares": Loss(squares, half_squares, undecided=0.25, border=0.5, share=1.0),
    # Lim and Ye 2017, Miyato et al. 2018: it knows the sign of a label, no more
    "hinge": Loss(hinge, linear, undecided=1.0, labels=("LABEL_FLIPPING",)),
    # Paired: Jolicoeur-Martineau 2018; Huang et al. 2024 (R3GAN)
    "relativistic": Loss(
        cross_entropy,
        cross_entropy,
        undecided=math.log(2),
        share=1.0,
        pairs=True,
        labels=(),
    ),
}


def loss_named(name):
    """Return a row of LOSSES. Raises UserError if there is none of that name."""
    if name not in LOSSES:
        raise UserError(f"There is no loss {name!r}, only {', '.join(LOSSES)}.")
    return LOSSES[name]


def check_recipe(loss, d_norm, r1, label_smoothing, label_flipping):
    """Raise UserError for constants of train.py that have no meaning together."""
    known = loss_named(loss).labels
    if r1 and d_norm == "batch":
        raise UserError(
            f"R1 = {r1:g} needs a discriminator without batch norm, where one face's "
            "gradient depends on no other's, not D_NORM = 'batch'. Try --d-norm none."
        )
    labels = {"LABEL_SMOOTHING": label_smoothing, "LABEL_FLIPPING": label_flipping}
    for name, share in labels.items():
        if share and name not in known:
            option = "--" + name.lower().replace("_", "-")
            raise UserError(
                f"{name} = {share:g} has no meaning with LOSS = {loss!r}, which "
                f"knows no such labels. Try {option} 0, or --loss cross-entropy."
            )


def realer(logits):
    """Turn D's {"real", "fake"} logits into how much realer each is than the other.

    Their cross-entropy with the labels 1 and 0 is then the relativistic pairing:
    softplus(-(real - fake)) for D. G's is softplus(-(fake - real)).
    """
    difference = logits["real"] - logits["fake"]
    return {"real": difference, "fake": -difference}


def accuracies(border):
    """Return how D's logits are counted, as compile() takes metrics.

    The border lies half-way between what real and fake faces are to get. Of
    relativistic pairs both shares are that of the real faces judged the realer.
    """

    def share_called_real(_, logit):
        return ops.mean(ops.cast(logit > border, "float32"))

    def share_called_fake(_, logit):
        return ops.mean(ops.cast(logit <= border, "float32"))

    return {"real": [share_called_real], "fake": [share_called_fake]}


class R1(layers.Layer):
    """Judge real faces, and add gamma / 2 |gradient of D there|^2 to the loss.

    Mescheder et al. 2018 (arXiv 1801.04406, equation 9): exact, the mean over the real
    faces as D sees them. `logit` is the model from faces to D's logits; `share` is what
    LOSSES says of the rest of D's loss. One pass serves both, and is gone back once,
    unless D is another in training, by dropout or spectral norm.
    """

    def __init__(self, logit, gamma, share, **options):
        super().__init__(dtype="float32", **options)
        self.logit, self.gamma = logit, gamma * share

    def call(self, faces, training=None):
        judge = functools.partial(self.logit, training=False)
        logits, gradient = with_gradients(judge, faces)
        steepness = ops.sum(ops.square(gradient), (1, 2, 3))
        self.add_loss(self.gamma / 2 * ops.mean(steepness))
        if self.logit.non_trainable_variables:
            return self.logit(faces, training=training)
        return logits

    def compute_output_spec(self, faces, training=None):
        return self.logit.compute_output_spec(faces)


def with_gradients(judge, faces):
    """Return judge(faces) (n, 1), and its gradient with respect to each face.

    Both can be differentiated once more, by what judge() depends on.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        judged, gradients = jax.vjp(judge, faces)
        return judged, gradients(ops.ones_like(judged))[0]
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(faces)
            judged = judge(faces)
        return judged, tape.gradient(judged, faces)
    import torch

    faces = faces.detach().requires_grad_()
    judged = judge(faces)
    return judged, torch.autograd.grad(judged.sum(), faces, create_graph=True)[0]
