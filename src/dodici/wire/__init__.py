"""Sans-IO protocol engines: bytes in, calls to a sink; no asyncio, no ssl, no sockets."""
