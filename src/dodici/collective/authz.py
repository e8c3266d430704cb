"""Who may call what: `Policy`, the `Authorizer` that is made of rules.

It is asked where a call enters the collective and again where it runs, both times for the end caller: his names cross
hops in metadata that only collectors may set, whose certificates say that they are some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import InvalidArgumentError
from ..core.grpc_status import GrpcStatus
from .contracts import Identity
from .errors import call_error
from .names import checked_name

if TYPE_CHECKING:
    from collections.abc import Callable


_MOST_DECISIONS: Final = 4096
"""Remembered at a time. Matching 21 rules takes 15 us, remembering that it was done less than one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Lets who has a name like `identity` call methods like `method` of one namespace."""

    identity: str
    namespace: str
    method: str = "*"


@dataclass(frozen=True)
class Policy:
    """Who may call what. A collector with a policy refuses whatever no rule of it allows; so an empty one refuses all.

        Policy().allow("spiffe://corp/ns/orders/*", "users", "UserService.Get*")

    Immutable: `allow()` gives another policy. Callers without a certificate are refused whatever the rules are, so
    that a policy needs `TLS` with client certificates. What the process of the collector calls itself, outside of a
    handler, it may call; other collectors ask their own policies, with the names in this one's certificate.

    Raises:
        InvalidArgumentError: a rule is not one.
    """

    rules: tuple[Rule, ...] = field(default=())

    def __post_init__(self) -> None:
        if not isinstance(self.rules, Iterable) or not all(isinstance(rule, Rule) for rule in self.rules):
            raise InvalidArgumentError(f"rules must be Rules, not {self.rules!r}: use Policy().allow(...)")
        object.__setattr__(self, "rules", tuple(self.rules))
        for rule in self.rules:
            for name in ("identity", "method"):
                value = getattr(rule, name)
                if not isinstance(value, str) or not value:
                    raise InvalidArgumentError(f"{name}_glob must be a str that is not empty, not {value!r}")
            if rule.namespace != "*":
                checked_name("namespace", rule.namespace)
                if "*" in rule.namespace:
                    raise InvalidArgumentError(
                        f"namespace must be one namespace, or '*' for all, not a glob: {rule.namespace!r}"
                    )

    def allow(self, identity_glob: str, namespace: str, method_glob: str = "*") -> Policy:
        """This policy, and one rule more.

        Args:
            identity_glob: matched against each name of the caller: URIs, DNS names and the common name of its
                certificate. ``*`` stands for any characters (``/`` too), ``?`` for one, ``[ab]`` for one of them.
            namespace: a namespace, or ``"*"`` for all.
            method_glob: matched against ``Service.Method``, with the service as it is spelt in the call. A service that
                has a full and a short name needs a rule that fits both, such as ``"*OrderService.Get*"``.

        Raises:
            InvalidArgumentError: a glob is empty, or the namespace no name.
        """
        return Policy((*self.rules, Rule(identity_glob, namespace, method_glob)))

    def allows(self, identity: Identity, namespace: str, service: str, method: str) -> bool:
        """Whether a rule lets this caller call this method."""
        key = (identity.names, namespace, service, method)
        known = self._decisions.get(key)
        if known is None:
            if len(self._decisions) >= _MOST_DECISIONS:
                self._decisions.clear()
            known = self._decisions[key] = self._decide(*key)
        return known

    def _decide(self, names: tuple[str, ...], namespace: str, service: str, method: str) -> bool:
        called = f"{service}.{method}"
        return any(
            space in {"*", namespace} and of_method(called) and any(of_caller(name) for name in names)
            for of_caller, space, of_method in self._matchers
        )

    def check(self, identity: Identity | str | None, namespace: str, service: str, method: str) -> None:
        """See `Authorizer.check`."""
        if isinstance(identity, str):
            identity = Identity((identity,))
        if identity is None or not identity.names:
            raise call_error(
                GrpcStatus.UNAUTHENTICATED,
                f"{namespace}/{service}.{method} is only for callers with a certificate",
            )
        if not self.allows(identity, namespace, service, method):
            raise call_error(
                GrpcStatus.PERMISSION_DENIED,
                f"the policy does not allow {identity.name} to call {namespace}/{service}.{method}",
            )

    @cached_property
    def _decisions(self) -> dict[tuple[tuple[str, ...], str, str, str], bool]:
        return {}

    @cached_property
    def _matchers(self) -> tuple[tuple[Callable[[str], Any], str, Callable[[str], Any]], ...]:
        # fnmatch() itself keeps only so many patterns compiled, and folds case on some systems.
        return tuple((_matcher(rule.identity), rule.namespace, _matcher(rule.method)) for rule in self.rules)


def _matcher(glob: str) -> Callable[[str], Any]:
    return re.compile(translate(glob)).match
