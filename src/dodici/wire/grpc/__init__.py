"""gRPC over HTTP/2 (grpc/doc/PROTOCOL-HTTP2.md): what is inside the bodies and fields of a call."""
