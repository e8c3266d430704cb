"""`dodici get`, run: one exchange through the public API, and the exit status that tells how it went."""

from __future__ import annotations

import asyncio
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ..core.errors import DodiciError, InvalidArgumentError
from .exits import Failure, status_of
from .interrupts import Interrupts
from .output import discard_standard_output, open_output
from .request import full_url, remote_name, request_arguments
from .verbose import Watcher

if TYPE_CHECKING:
    from ..core.dispatcher import Dispatcher
    from .settings import GetSettings

_HEAD_LIMIT = 256 * 1024
"""Bytes of a response head; as generous as curl, since one response is all there is to hold."""


def run(settings: GetSettings) -> int:
    """Send the request, write the response. Returns the exit status."""
    try:
        with ExitStack() as stack, Interrupts() as interrupts:
            url = full_url(settings.url)
            name = remote_name(url) if settings.remote_name else settings.output
            method, arguments = request_arguments(settings, stack)
            asyncio.run(_transfer(settings, interrupts, method, url, name, arguments))
    except (KeyboardInterrupt, asyncio.CancelledError):
        discard_standard_output()
        return 130
    except BrokenPipeError:
        # As with `dodici get URL | head`: whoever read has seen enough.
        discard_standard_output()
        return 23
    except Exception as error:
        if settings.tells_errors:
            print(f"dodici: {_one_line(error)}", file=sys.stderr)
        return status_of(error)
    return 0


async def _transfer(
    settings: GetSettings,
    interrupts: Interrupts,
    method: str,
    url: str,
    name: str | None,
    arguments: dict[str, Any],
) -> None:
    interrupts.watch()
    dispatcher = _dispatcher(settings, url)
    try:
        with Watcher(verbose=settings.verbose) as watcher:
            try:
                await _exchange(settings, interrupts, dispatcher, watcher, method, url, name, arguments)
            finally:
                watcher.finish()
        await dispatcher.close()
    except BaseException:
        await dispatcher.destroy()
        raise


async def _exchange(
    settings: GetSettings,
    interrupts: Interrupts,
    dispatcher: Dispatcher,
    watcher: Watcher,
    method: str,
    url: str,
    name: str | None,
    arguments: dict[str, Any],
) -> None:
    from ..api.verbs import stream

    try:
        context = stream(method, url, dispatcher=dispatcher, on_info=watcher.on_info, **arguments)
    except DodiciError as error:
        raise Failure(2, error.message) from error
    async with context as response:
        refused = settings.fail and response.status_code >= 400
        if not refused or settings.include or settings.head:
            with open_output(settings, name, response) as output:
                if settings.include or settings.head:
                    output.write("".join(watcher.heads).encode("latin-1"))
                if not refused:
                    async for chunk in response.body:
                        with interrupts.at_once:
                            output.write(chunk)
        if refused:
            status = f"{response.status_code} {response.status_message}".rstrip()
            raise Failure(22, f"{status} for {response.url}")


def _dispatcher(settings: GetSettings, url: str) -> Dispatcher:
    from ..interceptors import decompress, redirect, retry
    from ..net.connector import Connector
    from ..pool.agent import Agent

    cert: Any = settings.cert if settings.key is None else (settings.cert, settings.key)
    connector = Connector(
        timeout=settings.connect_timeout,
        verify=not settings.insecure,
        ca=settings.cacert,
        cert=cert,
        socket_path=settings.unix_socket,
    )
    if url.lower().startswith("https:") or settings.cacert or settings.cert:
        try:
            # Made now, so that a bad file is told of as what it is and not as a failed connection.
            _ = connector.ssl_context
        except InvalidArgumentError as error:
            raise Failure(77 if settings.cert is None else 58, error.message) from error
    # Like curl, no limit but --timeout: a long poll or a slow build log is the user's business.
    agent = Agent(
        connections=1,
        connect=connector,
        headers_timeout=0,
        body_timeout=0,
        max_header_size=_HEAD_LIMIT,
        allow_h2=not settings.http1,
        prefer_h2=settings.http2,
        use_h2c=settings.http2_prior_knowledge,
    )
    # The last is the outermost: what is decoded has been followed and retried, and ranges count coded bytes.
    return agent.compose(
        retry(max_retries=settings.retry, min_timeout=1.0, throw_on_error=False, retry=_retry_hook(settings))
        if settings.retry
        else None,
        redirect(settings.max_redirs, throw_on_max_redirect=True) if settings.location else None,
        decompress(skip_error_responses=False) if settings.compressed else None,
    )


def _retry_hook(settings: GetSettings) -> Any:
    def tell(error: BaseException, state: Any) -> float | None:
        if state.delay is not None and settings.tells_errors:
            left = settings.retry - state.counter - 1
            print(
                f"dodici: {_one_line(error)}; trying again in {state.delay:.1f} s, {left} more after that",
                file=sys.stderr,
            )
        delay: float | None = state.delay
        return delay

    return tell


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
