"""The two protocols of aggregated discovery, sans-IO: `request()` takes what a client says, `due()` says what it is
to be told. Source: Envoy's "xDS REST and gRPC protocol".

State of the world: a response has all resources of its type that the client asked for. What a listener or cluster
response lacks is not there any more. Incremental: a response has what is new to the client, and the names of what
is gone.

Both: a client answers each response, by its nonce, with another request. One with an error means that it goes on
with what it had; the same is not told again, only what comes after it. A request whose nonce is not the last one was
sent before the client saw that, and says nothing that the next one will not.

A stream without names asks for everything of the type; once it has named something, it asks for what it names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ...core.grpc_status import GrpcStatus
from ..errors import call_error
from .resources import CLUSTER, IN_ORDER, LISTENER, Resource, Snapshot, messages, version_of

_log = logging.getLogger("dodici.collective.xds")
MOST_NAMES: Final = 10_000
"""Names that one stream may ask for, of one type."""
_ANY: Final = "*"


@dataclass(slots=True)
class _Asked:
    """What a stream knows of one type."""

    names: set[str] = field(default_factory=set)
    wildcard: bool = False
    named: bool = False
    """It has named something: that names are missing no longer means everything."""
    told: dict[str, str] = field(default_factory=dict)
    """Versions that the client was told, by name."""
    nonce: str = ""
    owed: bool = True
    """There has to be a response, whatever has changed."""

    def wanted(self, snapshot: Snapshot, type_url: str) -> dict[str, Resource]:
        there = snapshot.get(type_url)
        if self.wildcard:
            return dict(there)
        return {name: there[name] for name in sorted(self.names) if name in there}


class _Stream:
    """What both protocols have in common."""

    def __init__(self, peer: str = "") -> None:
        self._peer = peer
        self._asked: dict[str, _Asked] = {}
        self._nonces = 0

    def _known(self, request: Any) -> _Asked | None:
        """What is known of the request's type; None if the request is to be passed over.

        Raises:
            CollectiveError: there is no such type (INVALID_ARGUMENT).
        """
        type_url = request.type_url
        if type_url not in IN_ORDER:
            raise call_error(GrpcStatus.INVALID_ARGUMENT, f"no resources of type {type_url[:200]!r} here")
        asked = self._asked.get(type_url)
        if asked is None:
            asked = self._asked[type_url] = _Asked()
        elif request.response_nonce and request.response_nonce != asked.nonce:
            return None
        if request.HasField("error_detail"):
            _log.warning(
                "%s has refused resources of type %s: %s",
                self._peer or "a client",
                type_url.rpartition(".")[2],
                request.error_detail.message[:1000],
            )
        return asked

    def _nonce(self) -> str:
        self._nonces += 1
        return str(self._nonces)

    def _limit(self, asked: _Asked) -> None:
        if len(asked.names) > MOST_NAMES:
            raise call_error(
                GrpcStatus.RESOURCE_EXHAUSTED, f"a stream may ask for {MOST_NAMES} names of a type"
            )


class WorldStream(_Stream):
    """A stream of StreamAggregatedResources."""

    def request(self, request: Any) -> None:
        """The client says what it wants, and how it liked the last response.

        Raises:
            CollectiveError: it asks for what there is not, or for too much.
        """
        asked = self._known(request)
        if asked is None:
            return
        names = set(request.resource_names)
        if names:
            asked.named = True
        if request.type_url in {LISTENER, CLUSTER}:
            asked.wildcard = _ANY in names or not asked.named
        names.discard(_ANY)
        if names - asked.names:
            asked.owed = True
        asked.names = names
        self._limit(asked)

    def due(self, snapshot: Snapshot) -> Iterator[Any]:
        """What the client is to be told now."""
        for type_url in IN_ORDER:
            asked = self._asked.get(type_url)
            if asked is None:
                continue
            wanted = asked.wanted(snapshot, type_url)
            versions = {name: resource.version for name, resource in wanted.items()}
            # Routes and endpoints are not deleted: they go with what names them, and the client keeps them until then.
            gone = asked.told.keys() - versions.keys() if type_url in {LISTENER, CLUSTER} else ()
            news = asked.owed or gone or any(asked.told.get(name) != versions[name] for name in versions)
            if not news or (not wanted and type_url not in {LISTENER, CLUSTER}):
                continue
            asked.owed = False
            asked.told = versions
            asked.nonce = self._nonce()
            yield messages().discovery.DiscoveryResponse(
                version_info=version_of(f"{name}={version}".encode() for name, version in versions.items()),
                resources=[resource.message for resource in wanted.values()],
                type_url=type_url,
                nonce=asked.nonce,
            )


class DeltaStream(_Stream):
    """A stream of DeltaAggregatedResources."""

    def request(self, request: Any) -> None:
        """See `WorldStream.request`."""
        first = request.type_url not in self._asked
        asked = self._known(request)
        if asked is None:
            # Unlike a whole state, a change of subscriptions is said once.
            asked = self._asked[request.type_url]
        subscribe = set(request.resource_names_subscribe)
        unsubscribe = set(request.resource_names_unsubscribe)
        if first:
            asked.told = dict(request.initial_resource_versions)
            asked.wildcard = request.type_url in {LISTENER, CLUSTER} and not subscribe
        if _ANY in subscribe:
            asked.wildcard = True
        if _ANY in unsubscribe:
            asked.wildcard = False
        subscribe.discard(_ANY)
        # What was asked for is told, again if it was before, and also if it is not there: the client waits for it.
        for name in subscribe:
            if not first or name not in asked.told:
                asked.told[name] = ""
        asked.owed = asked.owed or bool(subscribe)
        asked.names = (asked.names | subscribe) - unsubscribe
        for name in unsubscribe:
            if not asked.wildcard:
                asked.told.pop(name, None)
        self._limit(asked)

    def due(self, snapshot: Snapshot) -> Iterator[Any]:
        """See `WorldStream.due`."""
        for type_url in IN_ORDER:
            asked = self._asked.get(type_url)
            if asked is None:
                continue
            wanted = asked.wanted(snapshot, type_url)
            news = {
                name: resource
                for name, resource in wanted.items()
                if asked.told.get(name) != resource.version
            }
            removed = sorted(asked.told.keys() - wanted.keys())
            if not news and not removed and not (asked.owed and asked.wildcard):
                asked.owed = False
                continue
            asked.owed = False
            asked.told = {name: resource.version for name, resource in wanted.items()}
            asked.nonce = self._nonce()
            yield self._response(type_url, asked.nonce, news, removed)

    def _response(self, type_url: str, nonce: str, news: Mapping[str, Resource], removed: list[str]) -> Any:
        discovery = messages().discovery
        response = discovery.DeltaDiscoveryResponse(
            type_url=type_url,
            nonce=nonce,
            removed_resources=removed,
            system_version_info=version_of(resource.version.encode() for resource in news.values()),
        )
        for name, resource in news.items():
            response.resources.add(name=name, version=resource.version, resource=resource.message)
        return response
