"""The key that signs results: the user's own, or one that is made on first use."""

import datetime
import inspect
import os
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID
from filelock import FileLock

from faceshifter.errors import CredentialsError, OutputError
from faceshifter.files import replacing, user_folder

SIGNER_VARIABLE = "FACESHIFTER_SIGNER"
"""Environment variable: the user's own PEM file, with a private key and its certificate chain."""
SIGNER = "signer.pem"
"""Name of the file that is made in the user's configuration folder."""
MADE_HERE = "key made on first use"
"""Common name in the certificate that is made here."""
ROOT = f"root of the {MADE_HERE}"
"""Common name in the certificate that signs it."""
YEARS = 10
"""How long that certificate is valid."""
PEM = serialization.Encoding.PEM


def signer_path() -> Path:
    """Return where the PEM file to sign with is, or would be made."""
    named = os.environ.get(SIGNER_VARIABLE)
    return Path(named) if named else user_folder("config") / SIGNER


def ensure_signer() -> Path:
    """Return the PEM file to sign with; without FACESHIFTER_SIGNER it is made on first use.

    Raises:
        OutputError: It has to be made, but cannot be written.
    """
    path = signer_path()
    if os.environ.get(SIGNER_VARIABLE) or path.is_file():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A second process waits here, and then finds the key.
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.is_file():
                with replacing(path) as temporary:
                    temporary.touch(0o600)  # its owner alone may read it
                    temporary.write_bytes(make_signer())
    except (OSError, OutputError) as error:
        raise OutputError(
            f"the key to sign results with cannot be made as {path} ({error}); set "
            f"FACESHIFTER_CONFIG to another folder, or {SIGNER_VARIABLE} to your own certificate"
        ) from None
    return path


def load_signer(path: Path) -> tuple[str, bytes, bytes]:
    """Return C2PA's name of the algorithm, the certificate chain and the private key, as PEM.

    Raises:
        CredentialsError: The file is missing, or does not hold a key and its certificates.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CredentialsError(
            f"{path}, which results are signed with, cannot be read ({error.strerror}); correct "
            f"{SIGNER_VARIABLE} or the file's permissions"
        ) from None
    try:
        key = serialization.load_pem_private_key(content, password=None)
        chain = x509.load_pem_x509_certificates(content)
        matches = chain[0].public_key() == key.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CredentialsError(
            f"{path} does not hold a private key without password and its certificates; put both "
            "into it as PEM, your own certificate first"
        ) from None
    algorithm = _algorithm(key)
    if algorithm is None or not matches:
        raise CredentialsError(
            f"the first certificate in {path} is not of the key in it, or C2PA does not know that "
            "kind of key; give a pair of an EC, RSA or Ed25519 key"
        )
    return algorithm, b"".join(part.public_bytes(PEM) for part in chain), _private_pem(key)


def _algorithm(key: object) -> str | None:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        curves = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
        return curves.get(key.curve.name)
    if isinstance(key, rsa.RSAPrivateKey):
        return "ps256"
    return "ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else None


def make_signer(years: float = YEARS) -> bytes:
    """Return a new key and a chain of two certificates, as PEM; it names no person or machine.

    C2PA accepts no certificate that is signed by its own key, so a second key signs it and is
    thrown away.
    """
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = _certificate(ROOT, root_key, root_key, years, authority=True)
    leaf = _certificate(MADE_HERE, key, root_key, years, authority=False)
    return _private_pem(key) + leaf.public_bytes(PEM) + root.public_bytes(PEM)


def _private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def _certificate(
    common_name: str,
    key: ec.EllipticCurvePrivateKey,
    root_key: ec.EllipticCurvePrivateKey,
    years: float,
    *,
    authority: bool,
) -> x509.Certificate:
    """Return a certificate with the extensions that C2PA asks for, signed by the root's key."""
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
    usage |= {"digital_signature": not authority, "key_cert_sign": authority}
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string(f"CN={common_name},O=faceshifter"))
        .issuer_name(x509.Name.from_rfc4514_string(f"CN={ROOT},O=faceshifter"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now + datetime.timedelta(days=365 * years))
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()),
            critical=False,
        )
    )
    if not authority:
        purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(root_key, hashes.SHA256())
