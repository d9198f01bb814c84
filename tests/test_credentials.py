import datetime
import errno
import io
import json
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

import faceshifter
from faceshifter import images
from faceshifter.errors import CredentialsError, OutputError
from faceshifter.images import Photo, load_photo, save_photo
from faceshifter.marks import signer
from faceshifter.marks.c2pa import mark_video, read_manifest, sign
from faceshifter.marks.watermark import embed_watermark
from faceshifter.marks.xmp import SWAPPED, WARPED, WORKING, Mark, read_mark

TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = TERMS + "compositeWithTrainedAlgorithmicMedia"
MIMES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp", "tif": "image/tiff"}


def read_independently(path, mime):
    """What c2pa's own reader says, without our code."""
    with path.open("rb") as file, c2pa.Reader(mime, file) as reader:
        return json.loads(reader.json())


def active(found):
    return found["manifests"][found["active_manifest"]]


def actions_of(found):
    (actions,) = (a for a in active(found)["assertions"] if a["label"].startswith("c2pa.actions"))
    return actions["data"]["actions"]


@pytest.fixture
def video(tmp_path):
    """Two seconds of moving noise with sound, H.264 and AAC."""
    av = pytest.importorskip("av")
    path = tmp_path / "video.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 96, "yuv420p"
        for _ in range(20):
            pixels = rng.integers(0, 256, (96, 96, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", MIMES)
def test_every_result_has_a_valid_manifest_of_this_tool(tmp_path, grace_hopper, suffix):
    path = tmp_path / f"a.{suffix}"
    save_photo(path, Photo(grace_hopper, alpha=grace_hopper[..., 0].copy()))
    found = read_independently(path, MIMES[suffix])
    assert found["validation_state"] == "Valid"
    assert [s["code"] for s in found["validation_status"]] == ["signingCredential.untrusted"]
    tool = active(found)["claim_generator_info"][0]
    assert (tool["name"], tool["version"]) == ("faceshifter", faceshifter.__version__)
    created, marked = actions_of(found)
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"] == TRAINED
    assert "synthetic" in created["description"]
    assert marked == {"action": "c2pa.watermarked.unbound"}


@pytest.mark.parametrize("suffix", MIMES)
def test_signing_leaves_the_picture_as_it_is(tmp_path, grace_hopper, suffix):
    photo = Photo(grace_hopper, icc_profile=None)
    save_photo(tmp_path / f"a.{suffix}", photo, replace(SWAPPED, watermark=False))
    save_photo(tmp_path / f"b.{suffix}", photo, WORKING)
    signed, unsigned = (load_photo(tmp_path / f"{name}.{suffix}") for name in "ab")
    assert np.array_equal(signed.pixels, unsigned.pixels)


@pytest.mark.parametrize("suffix", MIMES)
def test_a_changed_picture_is_found_out(tmp_path, grace_hopper, suffix):
    path = tmp_path / f"a.{suffix}"
    save_photo(path, Photo(grace_hopper))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with path.open("rb") as file:
        manifest = read_manifest(file, MIMES[suffix])
    assert manifest.state == "Invalid"
    assert "assertion.dataHash.mismatch" in manifest.problems


def test_a_classical_result_is_a_composite_without_a_network(tmp_path, grace_hopper):
    path = tmp_path / "a.png"
    save_photo(path, Photo(grace_hopper), WARPED)
    created = actions_of(read_independently(path, "image/png"))[0]
    assert created["digitalSourceType"] == TERMS + "composite"
    assert "without a neural network" in created["description"]
    assert read_mark(path) == Mark(TERMS + "composite", f"faceshifter {faceshifter.__version__}")
    assert b"swapped by a neural network" not in path.read_bytes()


def test_a_result_left_unmarked_says_so_in_manifest_and_xmp(tmp_path, grace_hopper):
    path = tmp_path / "a.png"
    save_photo(path, Photo(grace_hopper), replace(SWAPPED, watermark=False))
    assert np.array_equal(load_photo(path).pixels, grace_hopper)
    found = read_independently(path, "image/png")
    assert {a["label"]: a["data"] for a in active(found)["assertions"]}["faceshifter.marks"] == {
        "watermark": False
    }
    (created,) = actions_of(found)
    assert created["description"].endswith("The invisible watermark was left out on request.")
    assert path.read_bytes().count(b"left out on request") == 2
    save_photo(path, Photo(grace_hopper))
    assert np.array_equal(load_photo(path).pixels, embed_watermark(grace_hopper))
    assert b"left out on request" not in path.read_bytes()


def test_a_working_picture_has_xmp_alone(tmp_path, grace_hopper):
    path = tmp_path / "a.png"
    save_photo(path, Photo(grace_hopper), WORKING)
    assert np.array_equal(load_photo(path).pixels, grace_hopper)
    assert read_mark(path).digital_source_type == TRAINED
    with pytest.raises(c2pa.C2paError.ManifestNotFound):
        read_independently(path, "image/png")


def test_the_manifest_names_no_person_place_or_source(tmp_path, grace_hopper, monkeypatch):
    monkeypatch.setenv("USER", "somebody")
    folder = tmp_path / "private"
    folder.mkdir()
    save_photo(folder / "secret.png", Photo(grace_hopper))
    content = (folder / "secret.png").read_bytes()
    assert not any(word in content for word in (b"private", b"secret", b"somebody"))
    text = json.dumps(read_independently(folder / "secret.png", "image/png"))
    assert not any(word in text for word in ("thumbnail", "ingredient", "title"))


def test_a_video_keeps_its_streams_and_gets_xmp_and_a_manifest(video):
    import av

    def packets():
        with av.open(str(video)) as container:
            return [(p.stream_index, p.pts, bytes(p)) for p in container.demux()]

    before = packets()
    mark_video(video, replace(SWAPPED, watermark=False))
    assert packets() == before
    assert read_mark(video) == Mark(TRAINED, f"faceshifter {faceshifter.__version__}")
    found = read_independently(video, "video/mp4")
    assert found["validation_state"] == "Valid"
    assert actions_of(found)[0]["digitalSourceType"] == TRAINED
    assert [path.name for path in video.parent.iterdir()] == [video.name]
    content = bytearray(video.read_bytes())
    content[-10] ^= 1  # in the XMP at the end
    video.write_bytes(content)
    assert read_independently(video, "video/mp4")["validation_state"] == "Invalid"


def test_exiftool_reads_every_format_back(tmp_path, grace_hopper, video):
    if shutil.which("exiftool") is None:
        pytest.skip("exiftool is not installed")
    for suffix in MIMES:
        save_photo(tmp_path / f"a.{suffix}", Photo(grace_hopper))
    mark_video(video)
    command = ["exiftool", "-j", "-XMP:all", "-CBOR:all", str(tmp_path)]
    rows = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert len(rows) == 5
    for row in rows:
        assert row["DigitalSourceType"] == TRAINED
        assert row["CreatorTool"] == f"faceshifter {faceshifter.__version__}"
        assert "synthetic" in row["Description"]
        if row["SourceFile"].endswith(("jpg", "png")):  # where it knows C2PA
            assert row["ActionsDigitalSourceType"] == TRAINED


def test_the_key_is_made_once_for_its_owner_alone(config, tmp_path, monkeypatch):
    monkeypatch.setenv("FACESHIFTER_CONFIG", str(tmp_path / "new" / "folder"))
    with ThreadPoolExecutor(4) as pool:
        paths = [
            future.result() for future in [pool.submit(signer.ensure_signer) for _ in range(4)]
        ]
    (path,) = set(paths)
    content = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signer.ensure_signer().read_bytes() == content
    assert {p.name for p in path.parent.iterdir()} == {"signer.pem", ".signer.pem.lock"}


def own_signer(key):
    """A user's certificate of an authority of his own, as one PEM file."""
    root_key = ec.generate_private_key(ec.SECP256R1())
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
    names = [
        x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Museum"),
                x509.NameAttribute(NameOID.COMMON_NAME, name),
            ]
        )
        for name in ("root", "Grace")
    ]
    now = datetime.datetime.now(datetime.UTC)
    chain = []
    for subject, public, authority in (
        (names[1], key.public_key(), False),
        (names[0], root_key.public_key(), True),
    ):
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(names[0])
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=100))
            .add_extension(x509.BasicConstraints(authority, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, **usage),
                critical=True,
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), False
            )
        )
        if not authority:
            builder = builder.add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False
            )
        certificate = builder.sign(root_key, hashes.SHA256())
        chain.append(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return b"".join(chain) + private


@pytest.mark.parametrize("kind", ["EC P-256", "EC P-384", "RSA", "Ed25519"])
def test_the_user_s_own_certificate_signs(tmp_path, monkeypatch, kind):
    key = {
        "EC P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EC P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "RSA": lambda: rsa.generate_private_key(65537, 2048),
        "Ed25519": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    (tmp_path / "own.pem").write_bytes(own_signer(key))
    monkeypatch.setenv(signer.SIGNER_VARIABLE, str(tmp_path / "own.pem"))
    save_photo(tmp_path / "a.png", Photo(np.zeros((8, 8, 3), np.uint8)))
    with (tmp_path / "a.png").open("rb") as file:
        manifest = read_manifest(file, "image/png")
    assert (manifest.state, manifest.signer) == ("Valid", "Museum, Grace")


@pytest.mark.parametrize("what", ["missing", "empty", "no key", "another key", "folder"])
def test_a_signer_that_cannot_sign_is_one_sentence_and_nothing_is_written(
    tmp_path, monkeypatch, what
):
    path, out = tmp_path / "own.pem", tmp_path / "out"
    out.mkdir()
    pem = signer.make_signer()
    key, certificates = pem.split(b"-----BEGIN CERTIFICATE", 1)
    other = signer.make_signer().split(b"-----BEGIN CERTIFICATE", 1)[1]
    if what == "folder":
        path.mkdir()
    elif what != "missing":
        path.write_bytes(
            {
                "empty": b"",
                "no key": b"-----BEGIN CERTIFICATE" + certificates,
                "another key": key + b"-----BEGIN CERTIFICATE" + other,
            }[what]
        )
    monkeypatch.setenv(signer.SIGNER_VARIABLE, str(path))
    with pytest.raises(CredentialsError) as caught:
        save_photo(out / "a.png", Photo(np.zeros((8, 8, 3), np.uint8)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(out.iterdir()) == []


def test_a_place_where_no_key_can_be_made_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FACESHIFTER_CONFIG", str(tmp_path / "file" / "folder"))
    with pytest.raises(OutputError, match=signer.SIGNER_VARIABLE):
        save_photo(tmp_path / "a.png", Photo(np.zeros((8, 8, 3), np.uint8)))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_signature_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_photo(path, Photo(np.zeros((8, 8, 3), np.uint8)))
    before = path.read_bytes()

    def fail(*args):
        raise CredentialsError("no; never")

    monkeypatch.setattr(images, "sign", fail)
    with pytest.raises(CredentialsError):
        save_photo(path, Photo(np.ones((8, 8, 3), np.uint8)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_disk_that_fills_while_signing_is_not_blamed_on_the_key(video):
    class FullDisk(io.BytesIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    with video.open("rb") as file, pytest.raises(OSError, match="No space left"):
        sign(file, FullDisk(), "video/mp4", SWAPPED)


def test_a_damaged_manifest_is_told_from_none(tmp_path):
    save_photo(tmp_path / "a.jpg", Photo(np.zeros((8, 8, 3), np.uint8)))
    content = (tmp_path / "a.jpg").read_bytes()
    damaged = io.BytesIO(content.replace(b"c2cl", b"????"))  # the claim's type
    with pytest.raises(CredentialsError, match="cannot be read"):
        read_manifest(damaged, "image/jpeg")
    assert read_manifest(io.BytesIO(content), "image/x-unheard-of") is None
