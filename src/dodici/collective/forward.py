"""Sending a call on to another collector: the attempts, and what each of them may do.

    never sent       to another peer, at once, at any collector on the way; each peer gets one chance
    sent, and lost   again only if the method is declared idempotent, within policy and budget, and only by the
                     collector at which the call came in: three hops of three tries each are not 27
    answered         the answer is passed on as it is, whatever it says

"Never sent" is what the transport knows (no connection), and what a collector says that has refused a call without
beginning it (no room, or an origin that accepts none any more): that is told back over any number of hops. An origin of
this collector is tried like a peer: what it refuses unseen goes to a peer, what is lost there follows the same rules.

A peer that did not answer within `per_try_timeout` counts as one that could not be reached. What remains of the
deadline goes along, less 5 ms, so that this collector can still say that it has passed.

A stream is repeated only before its first answer, and only while all of its input is still here: `Input` keeps it up to
a limit (see `replay.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Final

from ..core.grpc_status import GrpcStatus
from .arguments import LONGEST
from .balance import Attempts, Outcome, Ticket, outcome_of, parse_pushback
from .contracts import Call, Executor
from .errors import CollectiveError, call_error
from .http.framing import HTTP
from .names import CallKind
from .replay import Input

if TYPE_CHECKING:
    from .peer import Peer
    from .router import CollectiveRouter

ANSWERING: Final = 0.005
"""Seconds of a deadline that a collector keeps for answering."""
_PUSHBACK: Final = "grpc-retry-pushback-ms"


class Chosen:
    """Who runs a call: a peer, or this collector if `peer` is None."""

    __slots__ = ("candidate", "peer")

    def __init__(self, peer: Peer | None, candidate: Any) -> None:
        self.peer = peer
        self.candidate = candidate


class Forward:
    """An `Executor` that sends a call on, or runs it here if that is where it turns out to belong.

    Args:
        router: says where to, for each attempt.
        local: runs it here.
        first: the first choice, which is made already.
    """

    def __init__(self, router: CollectiveRouter, local: Executor, first: Chosen) -> None:
        self._router = router
        self._local = local
        self._first: Chosen | None = first
        self._attempts: Attempts | None = None
        self._refused: set[str] = set()
        self._failed: set[str] = set()
        self._error: CollectiveError | None = None
        self._passing = False
        self._late = 0

    async def unary(self, call: Call, payload: bytes) -> bytes:
        """See `Executor.unary`."""
        router = self._router
        try:
            while True:
                chosen = self._choose(call)
                timeout, per_try = self._timeout(call, chosen)
                ticket = router.picker.started(chosen.candidate) if chosen.candidate is not None else None
                started = time.monotonic()
                outcome = Outcome.CANCELLED
                try:
                    if chosen.peer is None:
                        answer = await self._local.unary(call, payload)
                    else:
                        self._enter(call)
                        answer = await chosen.peer.unary(call, payload, timeout)
                    outcome = Outcome.SUCCESS
                    return answer
                except CollectiveError as error:
                    failure = _per_try(error, call, chosen.peer, per_try)
                    outcome = self._outcome(call, chosen, failure)
                finally:
                    if ticket is not None:
                        router.picker.finished(ticket, outcome, time.monotonic() - started)
                await self._again(call, chosen.peer, failure, late=outcome is Outcome.CANCELLED)
        finally:
            self._leave(call)

    async def stream(self, call: Call, payloads: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """See `Executor.stream`."""
        if call.kind is CallKind.UNARY_UNARY:
            first = await anext(payloads, None)
            if first is None:
                raise call_error(GrpcStatus.INVALID_ARGUMENT, f"{call.key} takes one message, and none came")
            yield await self.unary(call, first)
            return
        router = self._router
        given = Input(payloads, router.room, router.caution(call.key))
        try:
            while True:
                chosen = self._choose(call)
                timeout, per_try = self._timeout(call, chosen)
                ticket = router.picker.started(chosen.candidate) if chosen.candidate is not None else None
                attempt = _Attempt(ticket, time.monotonic())
                answers: Any = None
                try:
                    if chosen.peer is None:
                        answers = self._local.stream(call, given.from_start())
                    else:
                        self._enter(call)
                        answers = chosen.peer.stream(call, given.for_transport(), timeout)
                    async for answer in answers:
                        if not answer and call.key.method == HTTP:
                            given.begun()
                        elif not attempt.answered:
                            attempt.answered = True
                            given.forget()
                            if ticket is not None:
                                router.picker.answered(ticket, time.monotonic() - attempt.started)
                        yield answer
                    attempt.outcome = Outcome.SUCCESS
                    return
                except CollectiveError as error:
                    if given.error is not None:
                        # Its transport ends a call whose input fails, in words of its own.
                        raise given.error from None
                    failure = _per_try(error, call, chosen.peer, per_try)
                    attempt.outcome = self._outcome(call, chosen, failure)
                finally:
                    try:
                        if answers is not None:
                            await answers.aclose()
                    finally:  # whoever is cancelled while it ends has been counted, too
                        if ticket is not None:
                            took = time.monotonic() - attempt.started
                            router.picker.finished(ticket, attempt.outcome, took)
                if attempt.answered or not given.whole:
                    raise failure
                late = attempt.outcome is Outcome.CANCELLED
                await self._again(call, chosen.peer, failure, late=late)
        except CollectiveError:
            if call.peer:
                await given.drain()
            raise
        finally:
            try:
                await given.close()
            finally:
                self._leave(call)

    def _enter(self, call: Call) -> None:
        """It is on its way to another collector."""
        if not self._passing:
            self._passing = True
            self._router.entered(call)
            if self._is_entry(call):
                # Each call, and not only those that fail: they are what retries are a share of.
                self._router.budget.called()

    def _leave(self, call: Call) -> None:
        if self._passing:
            self._passing = False
            self._router.left(call)

    def _outcome(self, call: Call, chosen: Chosen, failure: CollectiveError) -> Outcome:
        """What a failed attempt says about who was chosen. Whoever has sent the call here is told that it was not here."""
        behind, failure.behind = failure.behind, failure.behind or chosen.peer is not None
        if failure.grpc_status is GrpcStatus.UNAVAILABLE and (
            failure.refused if chosen.peer is not None else failure.request_not_processed
        ):
            # It has answered. If it has said meanwhile that it takes none, the call only came late.
            return Outcome.REJECTED if self._router.offered(call, chosen) else Outcome.CANCELLED
        outcome = outcome_of(failure.grpc_status)
        if behind and outcome in (Outcome.FAILURE, Outcome.UNREACHABLE):
            return Outcome.BEHIND
        return outcome

    def _choose(self, call: Call) -> Chosen:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        router = self._router
        try:
            if self._failed:
                try:
                    return router.choose(call, self._refused | self._failed)
                except CollectiveError:
                    # Nobody else: whoever failed may have another try.
                    pass
            return router.choose(call, self._refused)
        except CollectiveError as none_left:
            if self._error is not None:
                raise self._error from none_left
            raise

    def _timeout(self, call: Call, chosen: Chosen) -> tuple[float | None, bool]:
        """Seconds for an attempt, and whether it is `per_try_timeout` that says so."""
        if chosen.peer is None:
            return None, False  # the call's deadline holds here as it is
        per_try = self._router.retry.per_try_timeout if self._is_entry(call) else None
        if call.deadline is None:
            return per_try, per_try is not None
        # Other clients than ours may name a deadline that no transport can pass on.
        remaining = min(call.deadline - time.monotonic() - ANSWERING, LONGEST)
        if remaining <= 0:
            raise call_error(
                GrpcStatus.DEADLINE_EXCEEDED,
                f"{call.key} was not sent on before its deadline",
                request_not_processed=True,
            )
        if per_try is not None and per_try < remaining:
            return per_try, True
        return remaining, False

    @staticmethod
    def _is_entry(call: Call) -> bool:
        return call.from_collector is None

    async def _again(self, call: Call, peer: Peer | None, failure: CollectiveError, *, late: bool) -> None:
        """Return when the next attempt is due, after one at a peer, or here.

        Args:
            call: what failed.
            peer: where; None: here.
            failure: how.
            late: it only came too late: whoever has refused it has said so before, and does not count.

        Raises:
            CollectiveError: the failure, if there is none.
        """
        router = self._router
        if peer is None and not router.may_refuse(call):
            raise failure
        if self._attempts is None:
            self._attempts = Attempts(
                router.retry,
                router.budget,
                idempotent=router.idempotent(call.key),
                entry=self._is_entry(call),
            )
        self._error = failure
        sent = not failure.request_not_processed
        wait = self._attempts.failed(failure.grpc_status, sent=sent, pushback=_pushback(call))
        if wait is None or (call.target is not None and not sent):
            raise failure
        if call.deadline is not None and time.monotonic() + wait + ANSWERING >= call.deadline:
            raise failure
        (self._failed if sent else self._refused).add(router.own_id if peer is None else peer.id)
        self._late += late
        crowded = len(self._refused) - self._late >= router.most_refusals
        if not sent and crowded and (peer is None or peer.source.up):
            raise failure
        trailing, handled_by = call.trailing, call.handled_by
        if wait:
            await asyncio.sleep(wait)
        try:
            self._first = self._choose(call)
        except CollectiveError:
            call.trailing, call.handled_by = trailing, handled_by
            raise
        call.initial, call.trailing, call.handled_by = (), (), ""
        call.attempt += 1


class _Attempt:
    __slots__ = ("answered", "outcome", "started", "ticket")

    def __init__(self, ticket: Ticket | None, started: float) -> None:
        self.ticket = ticket
        self.started = started
        self.answered = False
        self.outcome = Outcome.CANCELLED


def _per_try(error: CollectiveError, call: Call, peer: Peer | None, per_try: bool) -> CollectiveError:
    """The error of an attempt: one that only `per_try_timeout` has ended is a peer that did not answer."""
    if peer is None:
        return error
    if error.grpc_status is GrpcStatus.DEADLINE_EXCEEDED and per_try:
        return call_error(
            GrpcStatus.UNAVAILABLE, f"collector {peer.id} did not answer {call.key} in time", peer=peer.id
        )
    unreached = error.request_not_processed and not error.refused
    if unreached and error.grpc_status is GrpcStatus.UNAVAILABLE and not call.trailing:
        named = call_error(
            GrpcStatus.UNAVAILABLE,
            f"collector {peer.id} cannot be reached: {error.message}",
            peer=peer.id,
            request_not_processed=True,
        )
        named.__cause__ = error
        return named
    return error


def _pushback(call: Call) -> float | None:
    for name, value in call.trailing:
        if name == _PUSHBACK:
            return parse_pushback(value if isinstance(value, str) else "")
    return None
