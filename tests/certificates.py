"""A certificate authority of the tests' own, as companies have one."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

VALID = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate with its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def make_authority(name: str) -> Identity:
    """A new authority, which nobody trusts yet."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Identity(_signed(name, key, None, key, x509.BasicConstraints(ca=True, path_length=None)), key)


def issue(authority: Identity, name: str, addresses: Sequence[str] = ()) -> Identity:
    """A certificate of `authority` for a server at these host names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    return Identity(_signed(name, key, authority, authority.key, x509.BasicConstraints(ca=False, path_length=None), addresses), key)


def _signed(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Identity | None,
    signer: ec.EllipticCurvePrivateKey,
    constraints: x509.BasicConstraints,
    addresses: Sequence[str] = (),
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID)
        .not_valid_after(now + VALID)
        .add_extension(constraints, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(is_authority=constraints.ca), critical=True)
    )
    if addresses:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(address) for address in addresses]), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_authority, crl_sign=is_authority, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _general_name(address: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)
