import pytest

from pygrid.features.datasets import conversion


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in this process; the child has tests of its own."""
    monkeypatch.setattr(conversion, "convert_in_child", lambda asked, _stop: conversion.convert(asked))
