"""Certificates as an operator would have them issued: authorities, and files in a folder."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dodici.collective import TLS

TRUST = "corp.example"
_DAY = dt.timedelta(days=1)


def spiffe(namespace: str, collector: str, trust: str = TRUST) -> str:
    return f"spiffe://{trust}/ns/{namespace}/collector/{collector}"


class Authority:
    """Issues certificates, whose files are in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._certificate = self._sign(self._key, self._name, [], ca=True)
        self.ca = folder / f"{name}.pem"
        self.ca.write_bytes(_pem(self._certificate))

    def collector(self, collector: str, *namespaces: str, **options: Any) -> TLS:
        """The `TLS` of a collector, for 127.0.0.1."""
        return self.tls(collector, [spiffe(namespace, collector) for namespace in namespaces], **options)

    def tls(self, name: str, uris: Iterable[str] = (), **options: Any) -> TLS:
        """A `TLS` with any names."""
        cert, key = self.issue(name, uris, **options)
        return TLS(cert, key, self.ca)

    def issue(
        self,
        name: str,
        uris: Iterable[str] = (),
        dns: Iterable[str] = (),
        *,
        expired: bool = False,
        lasts: float | None = None,
        common_name: str | None = None,
        address: bool = True,
    ) -> tuple[str, str]:
        """Write NAME.crt and NAME.key; their paths. It lasts a day, or so many seconds from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(each) for each in dns]
        if address:
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        certificate = self._sign(key, _named(common_name or name), names, expired=expired, lasts=lasts)
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # The key first: between the two writes they are no pair.
        key_file.write_bytes(private)
        cert_file.write_bytes(_pem(certificate))
        return str(cert_file), str(key_file)

    def _sign(
        self,
        key: Any,
        subject: x509.Name,
        names: list[x509.GeneralName],
        *,
        ca: bool = False,
        expired: bool = False,
        lasts: float | None = None,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        end = now - _DAY if expired else now + (_DAY if lasts is None else dt.timedelta(seconds=lasts))
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * _DAY)
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            # From Python 3.13 on, ssl's default contexts ask for these (RFC 5280 4.2.1).
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
            .add_extension(_usage(ca=ca), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
