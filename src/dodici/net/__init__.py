"""Sockets, TLS and DNS: the only layer that touches them."""
