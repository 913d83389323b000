"""These programs are tiny and run once, so most of the time would go into optimizing them."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
