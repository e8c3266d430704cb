"""HTTP/2 (RFC 9113), the client's side."""
