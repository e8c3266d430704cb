from __future__ import annotations

from pathlib import Path

import pytest
from tests.collective.security.certs import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    folder = tmp_path / "foreign"
    folder.mkdir()
    return Authority(folder, "foreign")
