"""What the long tests say at their end."""

import keras
import pytest
import strategies


@pytest.fixture(scope="session", autouse=True)
def whole_tracebacks():
    """An error's last frame is where it was raised."""
    keras.config.disable_traceback_filtering()


def pytest_terminal_summary(terminalreporter):
    if strategies.COMPUTED:
        total = sum(strategies.COMPUTED.values())
        each = ", ".join(f"{name} {number}" for name, number in sorted(strategies.COMPUTED.items()))
        terminalreporter.write_line(f"{strategies.BACKEND}: {total} generated cases ({each})")
