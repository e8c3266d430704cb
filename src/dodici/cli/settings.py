"""What the options of `dodici get` said, and the rules between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import click


@dataclass(frozen=True, slots=True, kw_only=True)
class GetSettings:
    """The options, by their long names. Seconds and counts.

    Raises:
        click.UsageError: options that exclude each other.
    """

    url: str
    method: str | None = None
    headers: tuple[str, ...] = ()
    user: str | None = None
    user_agent: str | None = None
    head: bool = False
    compressed: bool = False
    data: tuple[str, ...] = ()
    data_binary: tuple[str, ...] = ()
    form: tuple[str, ...] = ()
    json: tuple[str, ...] = ()
    upload_file: str | None = None
    output: str | None = None
    remote_name: bool = False
    include: bool = False
    verbose: bool = False
    silent: bool = False
    show_error: bool = False
    fail: bool = False
    location: bool = False
    max_redirs: int = 50
    retry: int = 0
    timeout: float | None = None
    connect_timeout: float = 10.0
    unix_socket: str | None = None
    http1: bool = False
    http2: bool = False
    http2_prior_knowledge: bool = False
    insecure: bool = False
    cacert: str | None = None
    cert: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        bodies = {
            "--data": self.data or self.data_binary,
            "--form": self.form,
            "--json": self.json,
            "--upload-file": self.upload_file,
        }
        given = [name for name, value in bodies.items() if value]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other: a request has one body")
        if self.head and given:
            raise click.UsageError(f"--head and {given[0]} exclude each other: HEAD has no body")
        if self.output is not None and self.remote_name:
            raise click.UsageError("--output and --remote-name exclude each other")
        if self.http1 and (self.http2 or self.http2_prior_knowledge):
            raise click.UsageError("--http1.1 excludes --http2 and --http2-prior-knowledge")
        if self.key is not None and self.cert is None:
            raise click.UsageError("--key goes with --cert")
        if self.insecure and self.cacert is not None:
            raise click.UsageError("--insecure and --cacert exclude each other: nothing would be verified")

    @property
    def tells_errors(self) -> bool:
        """Whether a failure is explained on stderr."""
        return not self.silent or self.show_error

    def with_password(self, password: str) -> GetSettings:
        """The same, with the password that the user was asked for."""
        return replace(self, user=f"{self.user}:{password}")
