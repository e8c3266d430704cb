"""A plain grpc.aio client of the collective, and of bare grpc.aio.

`--kind` is the scenario (``direct``, ``tls``, ``hop``, ``slow``), `--worker` who is measured: ``bare`` (grpc.aio and
nothing else), ``face`` (the transparent face), ``envelope``, ``link``, ``link-stream`` and ``no-link`` (over a hop),
``p2c`` and ``round_robin``. The servers are processes of their own. Every answer is compared with what was sent.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio
from harness import Client, Job, Unsupported, main

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COLLECTIVE = Path(__file__).resolve().parents[1] / "collective"
sys.path.append(str(COLLECTIVE))

import serve  # noqa: E402 - what the servers serve, and where

FAST, SLOW = 0.001, 0.2  # seconds that the handlers of the peers take


class CollectiveClient(Client):
    """One channel to one server."""

    package = "grpcio"
    versions = ("http/1.1",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if job.worker != "bare":
            self.package = "dodici"
        self.payload = bytes(range(256)) * (job.size // 256 + 1)
        self.payload = self.payload[: job.size]
        self._servers: list[subprocess.Popen[bytes]] = []
        self._folder = tempfile.TemporaryDirectory()
        self._channel: Any
        self._call: Any

    def _start(self, role: str, **options: str) -> str:
        words = [f"{name}={value}" for name, value in options.items()]
        command = [sys.executable, str(COLLECTIVE / "serve.py"), role, *words]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._servers.append(server)
        assert server.stdout is not None
        address = server.stdout.readline().decode().strip()
        if not address:
            raise RuntimeError(f"{role} did not start")
        return address

    def _address(self) -> str:
        kind, worker = self.job.kind, self.job.worker
        bare = worker == "bare"
        match kind:
            case "direct":
                return self._start("bare" if bare else "store")
            case "tls":
                self._certificates()
                return self._start("bare" if bare else "store", tls=self._folder.name)
            case "hop" if bare:
                return self._start("bare-hop", to=self._start("bare"))
            case "hop":
                link = {"link": "on", "link-stream": "stream", "no-link": "off"}[worker]
                return self._start("gate", to=self._start("store", link=link))
            case "slow":
                peers = [
                    self._start("store", id=f"store-{number}", delay=str(SLOW if number == 2 else FAST))
                    for number in range(3)
                ]
                return self._start("gate", to=",".join(peers), balance=worker)
        raise Unsupported(kind)

    def _certificates(self) -> None:
        import trustme

        authority = trustme.CA()
        pair = authority.issue_cert("127.0.0.1", "localhost")
        folder = Path(self._folder.name)
        (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        (folder / "key.pem").write_bytes(pair.private_key_pem.bytes())
        (folder / "ca.pem").write_bytes(authority.cert_pem.bytes())

    async def open(self) -> None:
        address = self._address()
        if self.job.kind == "tls":
            cert, key, ca = serve.parts(self._folder.name)
            self._channel = aio.secure_channel(address, grpc.ssl_channel_credentials(ca, key, cert))
        else:
            self._channel = aio.insecure_channel(address)
        if self.job.worker == "envelope":
            self._call = self._enveloped()
        else:
            say = self._channel.unary_unary(serve.PATH)
            metadata = (("x-dodici-namespace", serve.NAMESPACE),)

            async def call() -> int:
                answer: bytes = await say(self.payload, metadata=metadata, timeout=30)
                if answer != self.payload:
                    raise RuntimeError(f"another answer: {answer[:60]!r}")
                return len(answer)

            self._call = call

    def _enveloped(self) -> Callable[[], Awaitable[int]]:
        from google.protobuf.wrappers_pb2 import BytesValue

        from dodici.collective.protos import collector_pb2 as pb

        dispatch = self._channel.unary_unary(
            "/collector.CollectiveDispatcher/Dispatch",
            request_serializer=pb.DispatchRequest.SerializeToString,
            response_deserializer=pb.DispatchResponse.FromString,
        )

        async def call() -> int:
            request = pb.DispatchRequest(namespace=serve.NAMESPACE, method_name=serve.METHOD)
            request.service.service_name = serve.SERVICE
            request.input.Pack(BytesValue(value=self.payload))
            answer = await dispatch(request, timeout=30)
            value = BytesValue()
            if answer.status.code != 200 or not answer.output.Unpack(value) or value.value != self.payload:
                raise RuntimeError(f"another answer: {answer}")
            return len(value.value)

        return call

    def _once(self) -> Callable[[], Awaitable[int]]:
        once: Callable[[], Awaitable[int]] = self._call
        return once

    async def close(self) -> None:
        await self._channel.close()
        for server in self._servers:
            assert server.stdin is not None
            server.stdin.close()
            server.kill()
            server.wait()
        self._folder.cleanup()


if __name__ == "__main__":
    main(CollectiveClient)
