"""Every test of a method computes in one thread."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """See tests/conftest.py."""
