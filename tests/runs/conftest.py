"""Narrow networks, built once for all tests of what a run leaves."""

import pytest


@pytest.fixture(scope="session")
def built():
    import models

    recipe = models.Recipe(width=0.05)
    return models.build_gan("dcgan", 28, 1, (2e-4, 2e-4), 0.5, recipe=recipe)


@pytest.fixture
def gan(here, built):
    """Hand out all that trains, in an empty folder; put its weights back afterwards."""
    from dcgan.runs.checkpoints import _variables

    before = {name: each.numpy() for name, each in _variables(built).items()}
    yield built
    for name, variable in _variables(built).items():
        if variable.numpy().tobytes() != before[name].tobytes():
            variable.assign(before[name])
