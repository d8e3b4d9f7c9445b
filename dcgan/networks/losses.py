"""What the two networks minimize, what is said of the game, and what fits together.

Each loss compares a logit with a label, 1 for real and 0 for fake:

    cross-entropy   non-saturating (Goodfellow et al. 2014)
    least-squares   Mao et al. 2017, with the targets 1 and 0
    hinge           Lim and Ye 2017, Miyato et al. 2018
    relativistic    paired: Jolicoeur-Martineau 2018; Huang et al. 2024 (R3GAN)

D's is the mean of its losses on real and on fake faces.
"""

from dcgan.common.console import UserError
from dcgan.networks.backend import keras, layers, ops


def d_loss(kind):
    """Return the loss of D's logits of real or of fake faces."""
    return {"least-squares": squares, "hinge": hinge}.get(kind) or _cross_entropy()


def g_loss(kind):
    """Return the loss of D's logits of the generator's faces, labelled 1."""
    return {"least-squares": half_squares, "hinge": linear}.get(
        kind
    ) or _cross_entropy()


def _cross_entropy():
    return keras.losses.BinaryCrossentropy(from_logits=True)


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
    """-D for the label 1 (Miyato's equation 17)."""
    return -(2 * label - 1) * logit


def paired(logits):
    """Turn D's {"real", "fake"} logits into how much realer each is than the other.

    Their cross-entropy with the labels 1 and 0 is then the relativistic pairing:
    softplus(-(real - fake)) for D. G's is softplus(-(fake - real)).
    """
    realer = logits["real"] - logits["fake"]
    return {"real": realer, "fake": -realer}


def metrics(kind):
    """Return how D's judgements are counted, for compile().

    The border is where real and fake cost the same: half-way between their targets. Of
    relativistic pairs both shares are that of the real faces judged the realer.
    """
    border = 0.5 if kind == "least-squares" else 0

    def share_called_real(_, logit):
        return ops.mean(ops.cast(logit > border, "float32"))

    def share_called_fake(_, logit):
        return ops.mean(ops.cast(logit <= border, "float32"))

    return {"real": [share_called_real], "fake": [share_called_fake]}


def share_of(kind):
    """Return D's loss as a share of its paper's.

    It is the mean of what real and fake cost. Cross-entropy and hinge are told as the
    sum; least squares with a half before either, and a relativistic pair costs once.
    """
    return {"cross-entropy": 0.5, "hinge": 0.5}.get(kind, 1.0)


class R1(layers.Layer):
    """Pass real faces through, and add gamma / 2 |gradient of D there|^2 to the loss.

    Mescheder et al. 2018 (arXiv 1801.04406, equation 9): exact, the mean over the real
    faces as D sees them. `logit` is the model from faces to D's logits; `share` is what
    share_of says of the rest of D's loss.
    """

    def __init__(self, logit, gamma, share=1.0, **options):
        super().__init__(dtype="float32", **options)
        self.logit, self.gamma = logit, gamma * share

    def call(self, faces):
        gradient = gradients(lambda x: self.logit(x, training=False), faces)
        steepness = ops.sum(ops.square(gradient), (1, 2, 3))
        self.add_loss(self.gamma / 2 * ops.mean(steepness))
        return faces

    def compute_output_spec(self, faces):
        return keras.KerasTensor(faces.shape, faces.dtype)


def gradients(judge, faces):
    """Return the gradient of judge(faces) (n, 1) with respect to each face.

    It can be differentiated once more, by what judge() depends on.
    """
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(lambda x: ops.sum(judge(x)))(faces)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(faces)
            total = ops.sum(judge(faces))
        return tape.gradient(total, faces)
    import torch

    faces = faces.detach().requires_grad_()
    return torch.autograd.grad(judge(faces).sum(), faces, create_graph=True)[0]


def check(loss, d_norm, r1, smoothing, flipping):
    """Raise UserError for constants of train.py that have no meaning together."""
    if r1 and d_norm == "batch":
        raise UserError(
            f"R1 = {r1:g} needs a discriminator without batch norm, where one face's "
            "gradient depends on no other's, not D_NORM = 'batch'. Try --d-norm none."
        )
    labels = {"LABEL_SMOOTHING": smoothing, "LABEL_FLIPPING": flipping}
    blind = {"hinge": ["LABEL_SMOOTHING"], "relativistic": list(labels)}
    for name in blind.get(loss, ()):
        if labels[name]:
            option = "--" + name.lower().replace("_", "-")
            raise UserError(
                f"{name} = {labels[name]:g} has no meaning with LOSS = {loss!r}, which "
                f"knows no such labels. Try {option} 0, or --loss cross-entropy."
            )
