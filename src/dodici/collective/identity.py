"""What a certificate says about a collector: its id, and the namespaces that it may be in.

A collector's certificate carries one URI for each namespace: spiffe://TRUST/ns/NAMESPACE/collector/ID. Nothing else
makes a collector: a certificate that has but a DNS name or a common name is a client's, whose names a policy may
know, and which can neither connect as a collector nor vouch for callers.

TLS checks that certificates chain to a trusted authority, and hands on their URIs apart from other names. That the
trust domain is the authority's is for the authority to see to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..core.grpc_status import GrpcStatus
from .contracts import Identity
from .errors import call_error

_COLLECTOR = re.compile(r"spiffe://([a-z0-9._-]{1,255})/ns/([^/?#\s]+)/collector/([^/?#\s]+)").fullmatch


class CollectorName(NamedTuple):
    """What one URI of a collector's certificate says."""

    trust_domain: str
    namespace: str
    id: str

    @property
    def uri(self) -> str:
        """The URI (SPIFFE ID, 2)."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/collector/{self.id}"


def identity_of(certificate: dict[str, Any]) -> Identity:
    """The names in a certificate, as `SSLSocket.getpeercert` gives it.

    The kinds of names are kept apart: whoever may choose a common name could otherwise choose another's URI.
    """
    names: dict[str, None] = {}
    alternatives = certificate.get("subjectAltName", ())
    names.update((value, None) for kind, value in alternatives if kind == "URI")
    others = [value for kind, value in alternatives if kind == "DNS"]
    others += [
        value for part in certificate.get("subject", ()) for kind, value in part if kind == "commonName"
    ]
    names.update((value, None) for value in others if not {":", "/"} & {*value})
    return Identity(tuple(names), tls=True)


def collector_name(uri: str) -> CollectorName | None:
    """The parts of a collector's URI; None if it is none."""
    found = _COLLECTOR(uri)
    return None if found is None else CollectorName(*found.groups())


def collector_names(identity: Identity) -> tuple[CollectorName, ...]:
    """The collectors that a certificate is for: in general one, in several namespaces."""
    if not identity.tls:
        return ()
    return tuple(found for name in identity.names if (found := collector_name(name)) is not None)


def is_collector(identity: Identity, collector_id: str) -> bool:
    """Whether a certificate is that collector's."""
    return any(name.id == collector_id for name in collector_names(identity))


def check_connecting(identity: Identity, collector_id: str, namespaces: Iterable[str]) -> None:
    """Return if a collector may connect under that id, with those namespaces.

    Raises:
        CollectiveError: PERMISSION_DENIED: its certificate does not say so.
    """
    own = [name for name in collector_names(identity) if name.id == collector_id]
    if not own:
        raise call_error(
            GrpcStatus.PERMISSION_DENIED,
            f"the certificate of {identity.name or 'nobody'} is not that of collector {collector_id}: it needs a URI "
            f"spiffe://TRUST/ns/NAMESPACE/collector/{collector_id}",
            peer=collector_id,
        )
    allowed = {name.namespace for name in own}
    outside = [namespace for namespace in namespaces if namespace not in allowed]
    if outside:
        raise call_error(
            GrpcStatus.PERMISSION_DENIED,
            f"the certificate of collector {collector_id} is for {', '.join(sorted(allowed))}, not for "
            f"{', '.join(outside)}",
            peer=collector_id,
        )
