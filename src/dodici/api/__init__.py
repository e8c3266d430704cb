"""What people call: `request`, `stream`, `pipeline`, `connect`, `upgrade` and the response they get.

Everything here stands on `Dispatcher.dispatch()` alone, so it works with any dispatcher: a pool, a mesh, a
mock, or any of them seen through interceptors. The modules, from the outside in: `verbs` (the calls),
`prepare` (arguments to `DispatchOptions`) with `url`, `payload`, `multipart` and `auth`, `response` (what
a caller holds) over `receiver` (the handler that fills it), `duplex` and `upgrades`.
"""
