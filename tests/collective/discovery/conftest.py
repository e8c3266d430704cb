from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("grpc", reason="grpcio is not installed")

from tests.collective.discovery.etcd_kit import Etcd, etcd


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    with etcd(tmp_path_factory.mktemp("shared")) as server:
        yield server


@pytest.fixture
def shared(_shared: Etcd) -> Etcd:
    """An etcd that stays as it is: tests have their own prefixes in it."""
    return _shared


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Etcd]:
    """An etcd that may be spoiled."""
    with etcd(tmp_path) as server:
        yield server
