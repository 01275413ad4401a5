"""The made checkpoint, converted."""

import pytest


@pytest.fixture(scope="session")
def tiny_model(made_model):
    """The path of the made model directory. Read only."""
    return made_model.path
