"""With which key results are signed: the user's own, or one that is made on first use."""

import datetime
import os
import re
import secrets
from pathlib import Path

import platformdirs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from faceshifter.errors import CredentialsError, OutputError

SIGNER_VARIABLE = "FACESHIFTER_SIGNER"
"""Environment variable: a PEM file of the user's, with a private key and its certificate chain."""
CONFIG_VARIABLE = "FACESHIFTER_CONFIG"
"""Environment variable: a folder in place of the system's for configuration."""
SIGNER = "signer.pem"
"""The file in that folder."""
MADE_HERE = "key made on first use"
"""Common name in the certificate that is made here."""
YEARS = 10
PEM_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----\s*", re.DOTALL)


def config_folder() -> Path:
    """Where the user's configuration is: as named by FACESHIFTER_CONFIG, or the system's place."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else platformdirs.user_config_path("faceshifter", appauthor=False)


def signer_path() -> Path:
    """Where the PEM file to sign with is, or would be made."""
    named = os.environ.get(SIGNER_VARIABLE)
    return Path(named) if named else config_folder() / SIGNER


def signer_file() -> Path:
    """The PEM file to sign with: as named by FACESHIFTER_SIGNER, or one made on first use.

    Raises:
        OutputError: It is to be made, but cannot be written.
    """
    path = signer_path()
    if os.environ.get(SIGNER_VARIABLE) or path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Whoever comes second waits here, and then finds the key.
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                _write_private(path, make_signer())
    except OSError as error:
        raise OutputError(
            f"the key to sign results with cannot be written as {path} ({error.strerror}); name "
            f"another folder by {CONFIG_VARIABLE}, or your own certificate by {SIGNER_VARIABLE}"
        ) from None
    return path


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone can read, complete or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_signer(path: Path) -> tuple[str, bytes, bytes]:
    """C2PA's name of the algorithm, the certificate chain and the private key, as PEM.

    Raises:
        CredentialsError: The file is missing or not such a pair.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CredentialsError(
            f"{path}, which results are signed with, cannot be read ({error.strerror}); correct "
            f"{SIGNER_VARIABLE} or the file's permissions"
        ) from None
    blocks = [(match[1], match[0]) for match in PEM_BLOCK.finditer(content)]
    keys = [block for label, block in blocks if label.endswith(b"PRIVATE KEY")]
    chain = [block.strip() for label, block in blocks if label == b"CERTIFICATE"]
    try:
        key = serialization.load_pem_private_key(keys[0], password=None)
        certificate = x509.load_pem_x509_certificate(chain[0])
    except (IndexError, ValueError, TypeError) as error:
        raise CredentialsError(
            f"{path} does not hold a private key without password and its certificates "
            f"({error or 'empty'}); put both into it as PEM, your own certificate first"
        ) from None
    algorithm = _algorithm(key)
    if algorithm is None or certificate.public_key() != key.public_key():
        raise CredentialsError(
            f"the first certificate in {path} is not of the key in it, or the key is of a kind "
            "that C2PA does not know; give a pair of an EC, RSA or Ed25519 key"
        )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return algorithm, b"\n".join(chain), pem


def _algorithm(key: object) -> str | None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return {256: "es256", 384: "es384", 521: "es512"}.get(key.key_size)
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None


def make_signer() -> bytes:
    """A new key and a chain of two certificates, as PEM; it names no person and no machine.

    C2PA knows no signer who signed himself, so a second key signs the certificate and is forgotten.
    """
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name, name = _name(f"root of the {MADE_HERE}"), _name(MADE_HERE)
    root = _certificate(root_name, root_name, root_key.public_key(), root_key, authority=True)
    leaf = _certificate(name, root_name, key.public_key(), root_key, authority=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + leaf.public_bytes(pem) + root.public_bytes(pem)


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "faceshifter"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    authority: bool,
) -> x509.Certificate:
    """With the extensions that C2PA asks for."""
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        (
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    usage |= {"digital_signature": not authority, "key_cert_sign": authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * YEARS))
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if not authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())
