"""Dispatchers over connections: one origin, many connections, many origins."""
