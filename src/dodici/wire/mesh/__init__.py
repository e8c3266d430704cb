"""The protocol between two members of a mesh: frames, heads and credit, without I/O."""
