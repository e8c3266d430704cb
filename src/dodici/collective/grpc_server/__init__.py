"""A gRPC server on dodici's own HTTP/2: what arrives is handed to one face, as bytes.

server      listening, stopping, certificates
connection  one client: bytes in and out, keepalive, goodbye
call        one call: its handler's task, messages, status
handler     what a face gives for a call
head        what a request head says, read once for all calls that look alike
"""

from .call import ServerCall
from .handler import Handler, stream_stream, unary_unary
from .server import Server, ServerFace

__all__ = ["Handler", "Server", "ServerCall", "ServerFace", "stream_stream", "unary_unary"]
