"""The contract that every layer keeps: options, handler, controller, headers, errors, events.

Nothing here imports another part of dodici, asyncio or ssl; the layers above import this one.
"""
