"""Content credentials (C2PA): sign a manifest into each result, and read those of any tool.

The signature proves that nobody changed the file since. It proves who made it only with the user's
own certificate; nobody vouches for the one that is made on first use. No network is used: no time
stamp, no revocation list, no manifest kept elsewhere.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar

from faceshifter import __version__
from faceshifter.errors import CredentialsError
from faceshifter.files import replacing
from faceshifter.marks.signer import ensure_signer, load_signer
from faceshifter.marks.xmp import SWAPPED, Origin, append_xmp_box
from faceshifter.media import mp4_mime

T = TypeVar("T")
REMOTE = "Remote"
"""State of a manifest that is not in the file, which only names its place."""
MARKS = "faceshifter.marks"
"""Label of our own assertion: whether the pixels carry the watermark."""
WATERMARKED = "c2pa.watermarked.unbound"
"""Action: a watermark that does not point to this manifest was added."""


@dataclass(frozen=True)
class C2paManifest:
    """Claims of a file's newest manifest, and whether they can be believed."""

    state: str
    """Invalid, Valid (unchanged, but by an unknown signer), Trusted, or ``REMOTE``."""
    problems: list[str]
    """C2PA's codes of the checks that failed."""
    signer: str | None
    """Organisation and name in the signer's certificate."""
    generator: str | None
    """Program that made the claim, with its version."""
    digital_source_type: str | None
    """IPTC's term, of the first action that has one."""
    watermark: bool | None
    """Whether it claims a watermark; None where it says nothing about one."""
    url: str | None = None
    """Where a manifest is that is kept elsewhere; nothing is fetched, and nothing known of it."""


def sign(source: BufferedIOBase, target: BufferedIOBase, mime: str, origin: Origin) -> None:
    """Copy an encoded picture or video and add a signed manifest to the copy.

    Raises:
        CredentialsError: There is no usable key, or the file cannot be signed.
        OutputError: The key cannot be made on first use.
        OSError: The copy cannot be written.
    """
    import c2pa  # large, and not every command needs it

    created = {
        "action": "c2pa.created",
        "digitalSourceType": origin.digital_source_type,
        "description": origin.description,
    }
    actions = [created, {"action": WATERMARKED}] if origin.watermark else [created]
    # No title, ingredients or thumbnail: they would show names and faces of the inputs.
    manifest = {
        "claim_generator_info": [{"name": "faceshifter", "version": __version__}],
        "assertions": [
            {"label": "c2pa.actions", "data": {"actions": actions}},
            {"label": MARKS, "data": {"watermark": origin.watermark}},
        ],
    }
    path = ensure_signer()
    algorithm, chain, key = load_signer(path)
    source.seek(0)
    copy = _Copy(target)
    try:
        with (
            c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None)) as signer,
            c2pa.Builder(manifest, context=_context()) as builder,
        ):
            builder.sign(signer, mime, source, copy)
    except c2pa.C2paError as error:
        if copy.error is not None:
            raise copy.error from None
        raise CredentialsError(
            f"the result cannot be signed with {path} ({_one_line(error)}); check it with "
            "faceshifter doctor"
        ) from error


class _Copy:
    """A file that the library writes; the library itself does not say why that fails."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self.read, self.seek, self.tell = file.read, file.seek, file.tell
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        return self._try(lambda: self._file.write(data))

    def flush(self) -> None:
        self._try(self._file.flush)

    def _try(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except OSError as error:
            self.error = error
            raise


def mark_video(path: Path, origin: Origin = SWAPPED) -> None:
    """Add XMP and a signed manifest to a finished MP4 or QuickTime file, or a temporary one.

    The watermark is in its frames already; if it is not, the origin has ``watermark=False``.

    Raises:
        CredentialsError: There is no usable key, or the file cannot be signed.
        OutputError: It cannot be written.
    """
    append_xmp_box(path, origin)
    if origin.signed:
        with replacing(path) as temporary, path.open("rb") as file, temporary.open("xb+") as signed:
            sign(file, signed, mp4_mime(path), origin)


def read_manifest(file: BufferedIOBase, mime: str) -> C2paManifest | None:
    """Return the newest manifest of an open file; None if it has none, or its format allows none.

    Raises:
        CredentialsError: There is one, but it cannot be read.
    """
    import c2pa

    if mime not in c2pa.Reader.get_supported_mime_types():
        return None
    file.seek(0)
    try:
        with c2pa.Reader(mime, file, context=_context()) as reader:
            return _summarise(json.loads(reader.json()))
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        reason, _, url = _one_line(error).rpartition(" ")
        if reason.startswith("Remote:"):
            return C2paManifest(REMOTE, [], None, None, None, None, url)
        raise CredentialsError(f"its C2PA manifest cannot be read ({_one_line(error)})") from error


def _summarise(store: dict[str, Any]) -> C2paManifest:
    """Return what counts in the library's report on all manifests of a file."""
    manifest = store["manifests"][store["active_manifest"]]
    by_label = {a["label"].split(".v")[0]: a["data"] for a in manifest.get("assertions", [])}
    actions = by_label.get("c2pa.actions", {}).get("actions", [])
    types = [a["digitalSourceType"] for a in actions if "digitalSourceType" in a]
    signature = manifest.get("signature_info", {})
    names = [signature[key] for key in ("issuer", "common_name") if signature.get(key)]
    tools = manifest.get("claim_generator_info") or [{"name": manifest.get("claim_generator")}]
    tool = " ".join(filter(None, (tools[0].get("name"), tools[0].get("version"))))
    marked = any(a.get("action", "").startswith("c2pa.watermarked") for a in actions)
    return C2paManifest(
        state=store.get("validation_state", "Invalid"),
        problems=[problem["code"] for problem in store.get("validation_status", [])],
        signer=", ".join(names) or None,
        generator=tool or None,
        digital_source_type=types[0] if types else None,
        watermark=by_label.get(MARKS, {}).get("watermark", True if marked else None),
    )


def _context() -> Any:
    """Return the library's settings: nothing from the network, no thumbnails."""
    import c2pa

    verify = {"remote_manifest_fetch": False, "ocsp_fetch": False}
    thumbnail = {"enabled": False}
    return c2pa.Context.from_dict({"verify": verify, "builder": {"thumbnail": thumbnail}})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
