"""What pytest must know before it reads the tests."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of tests/rows.py; its numbers are those of docs/faults.md."""
    config.addinivalue_line("markers", "row(*numbers): holds these rows of the catalogue of faults, docs/faults.md")
