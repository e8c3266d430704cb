"""HTTP through the collective: `http://SERVICE.NAMESPACE.collective/` for any dispatcher.

| module | |
|---|---|
| interceptor | which requests are the collective's, and which of the two ways each of them goes |
| hosts | from a host to a service |
| passage | one exchange at the caller's end: its task, its body, its timeouts |
| tunnel | the exchange itself is carried to a service that is an origin somewhere |
| opening | the same for one that asks for another protocol |
| channel, transport | what it becomes: a WebSocket's messages, or bytes |
| rpc | the request is a call of a method: JSON there and back |
| framing, failures | the messages of a carried exchange, and what goes wrong with it |
| serving, streams | the end at the origin, and the bodies there |
| relay, parts | what becomes of an upgrade at the origin, and what goes both ways then |
"""
