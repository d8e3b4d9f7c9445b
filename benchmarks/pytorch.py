"""The DCGAN of PyTorch's tutorial in shape and size, trained with PyTorch itself.

The widths, kernels and parameters are those of models.py (a test counts them), the
five steps those of train.py. Faces go to the device as uint8 and are scaled there, and
nothing is read back before the round is over. Compiled, it runs through torch.compile
in channels_last.
"""

import contextlib
import itertools

import torch
from torch import nn

from benchmarks.workers import Contestant, faces_for

LATENT = 100
POOL = 8192  # pictures held in memory, uint8

# As models.DCGAN: start grid, the generator's widths from there on
NETWORKS = {
    8: (2, (2, 2)),
    28: (7, (256, 128, 64)),
    64: (4, (512, 256, 128, 64)),
}


def build_generator(image_size):
    """Map noise (n, LATENT) to faces (n, 3, S, S) in [-1, 1].

    The tutorial's first layer is a transposed convolution of noise (n, LATENT, 1, 1),
    which is this: but what lies how in an array one pixel wide is ambiguous, and on
    GPUs torch.compile foretells it wrongly, and gives up.
    """
    grid, widths = NETWORKS[image_size]
    layers = [
        nn.Linear(LATENT, widths[0] * grid * grid, bias=False),
        nn.Unflatten(1, (widths[0], grid, grid)),
    ]
    for before, width in itertools.pairwise(widths):
        layers += [nn.BatchNorm2d(before), nn.ReLU(True)]
        layers += [nn.ConvTranspose2d(before, width, 4, 2, 1, bias=False)]
    layers += [nn.BatchNorm2d(widths[-1]), nn.ReLU(True)]
    if grid * 2 ** (len(widths) - 1) < image_size:
        layers += [nn.ConvTranspose2d(widths[-1], 3, 4, 2, 1)]
    else:
        layers += [nn.Conv2d(widths[-1], 3, 3, 1, 1)]
    return nn.Sequential(*layers, nn.Tanh()).apply(_first_weights)


def build_discriminator(image_size):
    """Map faces (n, 3, S, S) in [-1, 1] to the logit (n, 1, 1, 1) of P(real)."""
    _, widths = NETWORKS[image_size]
    layers, before, side = [], 3, image_size
    for width in reversed(widths):
        # An odd side needs a pixel more at its end, to be halved upwards
        layers += [nn.ZeroPad2d((1, 2, 1, 2))] if side % 2 else []
        padding = 0 if side % 2 else 1
        layers += [nn.Conv2d(before, width, 4, 2, padding, bias=before == 3)]
        layers += [] if before == 3 else [nn.BatchNorm2d(width)]
        layers += [nn.LeakyReLU(0.2, True)]
        before, side = width, (side + 1) // 2
    return nn.Sequential(*layers, nn.Conv2d(before, 1, side)).apply(_first_weights)


class Training:
    """Both networks and their optimizers, on the GPU if there is one."""

    def __init__(self, spec):
        self.spec = spec
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        compiled = spec.contestant == "PyTorch compiled"
        self.layout = torch.channels_last if compiled else torch.contiguous_format
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
        networks = (
            build_generator(spec.image_size),
            build_discriminator(spec.image_size),
        )
        self.networks = [
            network.to(self.device, memory_format=self.layout) for network in networks
        ]
        self.optimizers = [
            torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999), fused=compiled)
            for network in self.networks
        ]
        run = torch.compile if compiled else lambda network: network
        self.generator, self.discriminator = map(run, self.networks)
        self.loss = nn.BCEWithLogitsLoss()
        self.real = torch.ones(spec.batch, 1, 1, 1, device=self.device)
        self.fake = torch.zeros_like(self.real)

    def iterate(self, pixels):
        """Do the five steps on faces (B, S, S, 3) uint8, in the CPU's memory."""
        g_optimizer, d_optimizer = self.optimizers
        pixels = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        real = (pixels.float() / 127.5 - 1).contiguous(memory_format=self.layout)
        d_optimizer.zero_grad(set_to_none=True)
        with self.precision():
            fake = self.generator(self.noise()).detach()
            d_loss = self.loss(self.discriminator(real), self.real)
            d_loss = (d_loss + self.loss(self.discriminator(fake), self.fake)) / 2
        d_loss.backward()
        d_optimizer.step()
        self.networks[1].requires_grad_(False)  # spares step 5 what it has no use for
        g_optimizer.zero_grad(set_to_none=True)
        with self.precision():
            judged = self.discriminator(self.generator(self.noise()))
            g_loss = self.loss(judged, self.real)
        g_loss.backward()
        g_optimizer.step()
        self.networks[1].requires_grad_(True)

    def precision(self):
        if self.spec.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def noise(self):
        shape = (self.spec.batch, LATENT)
        return torch.rand(shape, device=self.device) * 2 - 1


def contestant(spec):
    """Build it; a round takes its batches at random from faces in memory."""
    training = Training(spec)
    faces = torch.from_numpy(faces_for(spec, max(POOL, spec.batch)))
    cuda = training.device.type == "cuda"

    def prepare(iterations):
        def run():
            for _ in range(iterations):
                places = torch.randint(len(faces), (spec.batch,))
                pixels = faces[places]
                training.iterate(pixels.pin_memory() if cuda else pixels)
            if cuda:
                torch.cuda.synchronize()

        return run

    parameters = tuple(count_parameters(network) for network in training.networks)
    name = f"GPU, {torch.cuda.get_device_name()}" if cuda else "CPU"
    return Contestant(prepare, 1, parameters, name)


def count_parameters(network):
    """Count as Keras does: weights, and batch norm's running means and variances."""
    arrays = [*network.parameters(), *network.buffers()]
    return sum(array.numel() for array in arrays if array.dim())


def _first_weights(layer):
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
