"""Content credentials (C2PA): a manifest in each result, signed, and the signatures of others.

The signature proves that nobody changed the file since. It proves who made it only where the
user's own certificate is used; the one that is made on first use is vouched for by nobody. No
network is used: no time stamp, no revocation list, no manifest kept elsewhere.
"""

import json
import secrets
from dataclasses import dataclass
from io import BufferedIOBase, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faceshifter import __version__
from faceshifter.errors import CredentialsError, OutputError
from faceshifter.marks.signer import load_signer, signer_file
from faceshifter.marks.xmp import SWAPPED, Origin, append_xmp_box
from faceshifter.media import mp4_mime

if TYPE_CHECKING:
    import c2pa

MARKS = "faceshifter.marks"
"""Label of our own statement in the manifest: whether the pixels are marked."""
WATERMARKED = "c2pa.watermarked.unbound"
"""Action: a watermark was added that does not name this manifest."""


@dataclass(frozen=True)
class C2paManifest:
    """What a file's newest manifest says, and whether that can be believed."""

    state: str
    """Invalid, Valid (nothing was changed, by whom is not known) or Trusted."""
    problems: list[str]
    """C2PA's codes of what failed."""
    signer: str | None
    """Organisation and name in the signer's certificate."""
    generator: str | None
    """Program that made the claim."""
    digital_source_type: str | None
    """Of the first action that has one."""
    watermark: bool | None
    """Whether it says that the pixels are marked; None where it does not speak of it."""


def sign(file: BytesIO, mime: str, origin: Origin) -> BytesIO:
    """An encoded picture with a signed manifest.

    Raises:
        CredentialsError: There is no usable key, or the file cannot be signed.
        OutputError: The key that is made on first use cannot be written.
    """
    signed = BytesIO()
    _sign(file, signed, mime, origin)
    return signed


def mark_video(path: Path, origin: Origin = SWAPPED) -> None:
    """Give a finished video XMP and a signed manifest, in place and all at once.

    The frames are marked before they are encoded, by ``watermark.embed_watermark``.

    Args:
        path: An MP4 or QuickTime file, ``media.MP4_SUFFIXES``, or a temporary file of that format.
        origin: How it came about; ``watermark=False`` in it where the frames were left unmarked.

    Raises:
        CredentialsError: There is no usable key, or the file cannot be signed.
        OutputError: It cannot be written.
    """
    temporary = path.with_name(f".faceshifter-{secrets.token_hex(8)}.tmp")
    try:
        append_xmp_box(path, origin)
        if origin.signed:
            with path.open("rb") as file, temporary.open("xb+") as signed:
                _sign(file, signed, mp4_mime(path), origin)
            temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _sign(source: BufferedIOBase, target: BufferedIOBase, mime: str, origin: Origin) -> None:
    """Copy a file and add the manifest."""
    import c2pa  # a large library, which not every command needs

    actions: list[dict[str, Any]] = [
        {
            "action": "c2pa.created",
            "digitalSourceType": origin.digital_source_type,
            "description": origin.description,
        }
    ]
    if origin.watermark:
        actions.append({"action": WATERMARKED})
    # No title, ingredients or thumbnail: they would carry names and faces of the inputs.
    manifest = {
        "claim_generator_info": [{"name": "faceshifter", "version": __version__}],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": actions}},
            {"label": MARKS, "data": {"watermark": origin.watermark}},
        ],
    }
    path = signer_file()
    algorithm, chain, key = load_signer(path)
    source.seek(0)
    try:
        with (
            c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None)) as signer,
            c2pa.Builder(manifest, context=_context()) as builder,
        ):
            builder.sign(signer, mime, source, target)
    except c2pa.C2paError as error:
        raise CredentialsError(
            f"the result cannot be signed with {path} ({_one_line(error)}); check it with "
            "faceshifter doctor"
        ) from error


def read_manifest(file: BufferedIOBase, mime: str) -> C2paManifest | None:
    """The newest manifest of an open file; None where it has none, or its format can have none.

    Raises:
        CredentialsError: There is one, but it is damaged beyond reading.
    """
    import c2pa

    if mime not in c2pa.Reader.get_supported_mime_types():
        return None
    file.seek(0)
    try:
        with c2pa.Reader(mime, file, context=_context()) as reader:
            found = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        raise CredentialsError(f"its C2PA manifest cannot be read ({_one_line(error)})") from error
    manifest = found["manifests"][found["active_manifest"]]
    by_label = {a["label"].split(".v")[0]: a["data"] for a in manifest.get("assertions", [])}
    actions = by_label.get("c2pa.actions", {}).get("actions", [])
    types = [a["digitalSourceType"] for a in actions if "digitalSourceType" in a]
    signature = manifest.get("signature_info", {})
    names = [signature[key] for key in ("issuer", "common_name") if signature.get(key)]
    tools = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    tool = " ".join(filter(None, (tools[0].get("name"), tools[0].get("version"))))
    marked = any(a.get("action", "").startswith("c2pa.watermarked") for a in actions)
    return C2paManifest(
        state=found.get("validation_state", "Invalid"),
        problems=[problem["code"] for problem in found.get("validation_status", [])],
        signer=", ".join(names) or None,
        generator=tool or None,
        digital_source_type=types[0] if types else None,
        watermark=by_label.get(MARKS, {}).get("watermark", True if marked else None),
    )


def _context() -> "c2pa.Context":
    """Settings of the library: nothing from the network, no thumbnails."""
    import c2pa

    return c2pa.Context.from_dict(
        {
            "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
            "builder": {"thumbnail": {"enabled": False}},
        }
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
