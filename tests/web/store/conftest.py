"""Settings of a Domain on PostgreSQL and a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pygrid.settings import DomainSettings, load_settings
from support import stores


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with stores.moto() as endpoint:
        yield endpoint


@pytest.fixture
def settings(moto: str, migrated_postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DomainSettings:
    for name, value in stores.CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return load_settings(
        {},
        data_dir=tmp_path / "data",
        id="test",
        database_url=migrated_postgres_url,
        secret_key="k" * 32,
        store=stores.new_address(moto).url,
        s3_endpoint=moto,
        s3_path_style=True,
    )
