"""Stand-ins for runtimes."""

import pytest

from .stand import Stand


@pytest.fixture
def stand():
    """`stand(**answers)`: stand-ins that are gone when the test is over."""
    made = []

    def make(**answers):
        made.append(Stand(**answers))
        return made[-1]

    yield make
    for one in made:
        one.stop()
        one.loop.call_soon_threadsafe(one.loop.stop)
