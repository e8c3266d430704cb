"""https: what is trusted, what is shown, and who says who."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.cli_kit import Handler, RecordingServer, serving

trustme = pytest.importorskip("trustme")


class _TLSServer(RecordingServer):
    context: ssl.SSLContext

    @property
    def origin(self) -> str:
        return f"https://localhost:{self.server_address[1]}"

    def finish_request(self, request, client_address):
        # Here and not in the accepting thread, so that a client that gives up does not hold up the next.
        with self.context.wrap_socket(request, server_side=True) as connection:
            super().finish_request(connection, client_address)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def _server(authority: trustme.CA) -> Iterator[RecordingServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["http/1.1"])
    server = _TLSServer(("127.0.0.1", 0), Handler)
    server.context = context
    with serving(server):
        yield server


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return str(tmp_path / "ca.pem")


def test_unknown_authority(run, server):
    ran = run(server.origin)
    assert ran.status == 60
    assert ran.err.startswith("dodici: ")
    assert ran.err.count("\n") == 1


def test_insecure(run, server):
    ran = run("-kv", server.origin)
    assert (ran.status, ran.out) == (0, b"Hello, world!")
    assert "* the server's certificate was not verified\n" in ran.err


def test_cacert(run, server, ca):
    ran = run("-v", "--cacert", ca, server.origin)
    assert (ran.status, ran.out) == (0, b"Hello, world!")
    assert "* TLSv1." in ran.err
    assert "ALPN http/1.1" in ran.err
    assert "* certificate is for localhost until " in ran.err


def test_wrong_name(run, server, ca):
    assert run("--cacert", ca, server.origin.replace("localhost", "127.0.0.1")).status == 60


def test_no_tls_at_the_other_end(run):
    with serving(RecordingServer(("127.0.0.1", 0), Handler)) as plain:
        assert run(plain.origin.replace("http:", "https:")).status == 35


@pytest.mark.parametrize("separate", [True, False])
def test_client_certificate(run, server, authority, ca, tmp_path, separate):
    identity = authority.issue_cert("me@example.org")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    if separate:
        identity.cert_chain_pems[0].write_to_path(certificate)
        identity.private_key_pem.write_to_path(key)
        options = ["--cert", str(certificate), "--key", str(key)]
    else:
        identity.private_key_and_cert_chain_pem.write_to_path(certificate)
        options = ["-E", str(certificate)]
    assert run("--cacert", ca, *options, server.origin).out == b"Hello, world!"


def test_bad_files(run, server, ca, tmp_path):
    (tmp_path / "bad").write_text("nothing")
    for options, status in (
        (["--cacert", f"{tmp_path}/bad"], 77),
        (["--cacert", f"{tmp_path}/none"], 77),
        (["--cacert", ca, "--cert", f"{tmp_path}/none"], 58),
        (["--cert", f"{tmp_path}/bad"], 58),
    ):
        ran = run(*options, server.origin)
        assert ran.status == status, ran.err
        assert ran.err.startswith("dodici: ")
    assert not server.requests
