"""Every file that the program reads back: changed in any place it is used or refused, no more."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fuzz.mutation import NESTED, apply, change_json
from fuzz.subjects import (
    SUBJECTS,
    identity,
    read_checkpoints,
    read_identity,
    read_prepared,
    read_run,
    read_tar,
    swapper,
    training_state,
    write_tar,
    write_videos,
)

from faceshifter.config import CropGeometry
from faceshifter.encoders.encoder import load_identity_encoder
from faceshifter.errors import CheckpointError, CredentialsError, FaceShifterError, OutputError
from faceshifter.files import write_atomically
from faceshifter.marks.signer import load_signer, make_signer
from faceshifter.networks import load_aei, load_hear
from faceshifter.swap.selection import Selection, load_identity
from faceshifter.tensors import load_tensors, save_tensors
from faceshifter.train.checkpoint import load_newest
from faceshifter.video.clip import swap_video

VALUES = (None, True, -1, 10**400, float("nan"), "", "\ud800\n", [], {}, "x" * 3000, 2**31)
ACTIONS = ("delete", "rename", "extra", "nest", "letter")


def read_stage(folder: Path, changed: Path) -> None:
    aei, _ = load_aei(folder / "aei.safetensors")
    load_hear(folder / "hear.safetensors", aei)


def read_recogniser(folder: Path, changed: Path) -> None:
    load_identity_encoder(str(changed), CropGeometry())


FILES: dict[str, tuple[str, Callable[[Path, Path], None]]] = {
    "anna.safetensors": ("identities", read_identity),
    "aei.safetensors": ("weights", read_stage),
    "hear.safetensors": ("weights", read_stage),
    "recogniser.pt": ("weights", read_recogniser),
    "step-00000002.safetensors": ("checkpoints", read_checkpoints),
    "config.json": ("runs", read_run),
    "stats.jsonl": ("runs", read_run),
    "columns.json": ("runs", read_run),
    "records.jsonl": ("runs", read_run),
    "hardest.safetensors": ("runs", read_run),
    "signer.pem": ("runs", read_run),
    "prepared.json": ("prepared sets", read_prepared),
    "errors/ranking.json": ("prepared sets", read_prepared),
    "errors/errors.jsonl": ("prepared sets", read_prepared),
    "attributes/index.json": ("prepared sets", read_prepared),
    "attributes/pca.safetensors": ("prepared sets", read_prepared),
    "attributes/part-00000.safetensors": ("prepared sets", read_prepared),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of each subject, by the real writers, in a folder of its name."""
    root = tmp_path_factory.mktemp("written")
    for name in {name for name, _ in FILES.values()}:
        (root / name).mkdir()
        SUBJECTS[name].write(root / name)
    return root


def changed_bytes(data: bytes) -> Iterator[bytes]:
    """Cut off, not text, not this kind of file, or with other bytes."""
    yield b""
    yield from (data[: len(data) * share // 7] for share in range(1, 7))
    yield from (b"\xff\xfe" + data, b"[" * 100_000, b"\x80\x02}q\x00.", b"null\n", data + data)
    for at in range(0, min(len(data), 2000), max(min(len(data), 2000) // 16, 1)):
        yield data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def changed_json(value: object) -> Iterator[str]:
    """Each place once deleted, renamed, nested, with a letter or a value changed."""
    count = len(json.dumps(value).split(":")) + 8
    for number in range(count):
        at = number / count
        for action in ACTIONS:
            yield dump(change_json(value, at, action, number))
        yield dump(replaced(value, at, VALUES[number % len(VALUES)]))


def replaced(value: object, at: float, other: object) -> object:
    """A JSON value with another one in a place, which need not be one of the fuzzer's."""
    marked = change_json(value, at, "nest", 0)
    return json.loads(json.dumps(marked).replace(json.dumps(NESTED), json.dumps(other)))


def dump(value: object) -> str:
    return json.dumps(value).replace(json.dumps(NESTED), "[" * 20_000 + "]" * 20_000)


def versions(path: Path) -> Iterator[bytes]:
    """Every changed content of a file."""
    data = path.read_bytes()
    yield from changed_bytes(data)
    if path.suffix == ".json":
        yield from (text.encode() for text in changed_json(json.loads(data)))
    elif path.suffix == ".jsonl":
        first, *others = data.splitlines(keepends=True)
        for text in changed_json(json.loads(first)):
            yield text.encode() + b"\n" + b"".join(others)
    elif path.suffix == ".safetensors":
        (size,) = struct.unpack("<Q", data[:8])
        header, values = json.loads(data[8 : 8 + size]), data[8 + size :]
        info = json.loads(header["__metadata__"]["faceshifter"])
        for text in changed_json(info):
            header["__metadata__"]["faceshifter"] = text
            encoded = json.dumps(header).encode()
            yield struct.pack("<Q", len(encoded)) + encoded + values
        for number in (b"\xff\xff\xff\xff", b"\x00\x7c\x00\x7c", b"\x00\x00\x80\x7f"):
            yield data[: 8 + size] + number * (len(values) // 4)  # NaN, infinity of 16 and 32 bits


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_used_or_refused_in_one_sentence(
    name: str, written: Path, tmp_path: Path
) -> None:
    subject, read = FILES[name]
    folder, sentences = tmp_path / "copy", []
    for content in versions(written / subject / name):
        shutil.copytree(written / subject, folder)
        (folder / name).write_bytes(content)
        with suppress(FaceShifterError):
            try:
                read(folder, folder / name)
            except FaceShifterError as error:
                sentences.append(str(error))
                raise
        shutil.rmtree(folder)
    assert not [text for text in sentences if "\n" in text or len(text) > 2000]
    assert sentences or name == "step-00000002.safetensors"  # the one before is taken
    shutil.copytree(written / subject, folder)
    read(folder, folder / name)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda z: z * np.nan, "not finite"),
        (lambda z: z / 0 if z.all() else z + np.inf, "not finite"),
        (lambda z: z * 0, "of length 0, not 1"),
        (lambda z: z * 1000, "of length 1e"),
        (lambda z: z[:, :128], r"shape \(1, 128\)"),
        (lambda z: z.astype(np.float64), "type float64"),
        (lambda z: np.concatenate([z, z]), r"shape \(2, 320\)"),
    ],
)
def test_an_identity_is_one_unit_vector(
    change: Callable[[np.ndarray], np.ndarray], sentence: str, written: Path, tmp_path: Path
) -> None:
    tensors, info = load_tensors(written / "identities" / "anna.safetensors")
    path = tmp_path / "anna.safetensors"
    with np.errstate(all="ignore"):
        save_tensors(path, {"z_id": change(tensors["z_id"])}, info)
    with pytest.raises(CheckpointError, match=sentence):
        load_identity(path, swapper().networks)
    save_tensors(path, tensors, info)
    np.testing.assert_array_equal(load_identity(path, swapper().networks), identity())


@pytest.mark.parametrize("info", [{}, {"stop": 2}, {"step": "2"}, {"step": 2.5}, {"step": 3}])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    info: dict[str, object], written: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(written / "checkpoints", folder)
    newest = folder / "step-00000002.safetensors"
    save_tensors(newest, load_tensors(newest)[0], info)
    assert load_newest(folder, training_state()) == 1
    (folder / "step-00000001.safetensors").unlink()
    with pytest.raises(CheckpointError):
        load_newest(folder, training_state())


def test_the_moments_of_adam_have_to_be_those_of_its_parameters(
    written: Path, tmp_path: Path
) -> None:
    path = written / "checkpoints" / "step-00000002.safetensors"
    tensors, info = load_tensors(path)
    moment = tensors.pop("adam/0/exp_avg")
    for changed in (
        {},
        {"adam/0/exp_avh": moment},
        {"adam/0/exp_avg": moment[0]},
        {"adam/0/exp_avg": moment, "adam/99/step": np.float32(1)},
        {"adam/0/exp_avg": moment, "adam/0/0/step": np.float32(1)},
    ):
        save_tensors(tmp_path / path.name, tensors | changed, info)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_newest(tmp_path, training_state())


def test_a_signer_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "signer.pem"
    key, *chain = make_signer().split(b"-----BEGIN CERTIFICATE-----")
    certificate = x509.load_pem_x509_certificate(b"-----BEGIN CERTIFICATE-----" + chain[0])
    der = certificate.public_bytes(serialization.Encoding.DER)
    known = bytes.fromhex("06072a8648ce3d0201")  # the kind of the certificate's public key
    assert known in der
    pem = x509.load_der_x509_certificate(der.replace(known, known[:-1] + b"\x7f"))
    path.write_bytes(key + pem.public_bytes(serialization.Encoding.PEM))
    with pytest.raises(CredentialsError, match="does not hold a private key"):
        load_signer(path)
    other = ec.generate_private_key(ec.SECP256K1())  # of 256 bits, but C2PA does not know it
    encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(other.private_bytes(*encoding, serialization.NoEncryption()) + make_signer())
    with pytest.raises(CredentialsError, match="is not of the key in it"):
        load_signer(path)


@pytest.mark.parametrize("own", [None, "active"])
def test_every_command_lets_threads_sleep_while_they_wait(own: str | None) -> None:
    code = (
        "import os, sys\nfrom faceshifter.cli import main\n"
        "assert 'torch' not in sys.modules\nsys.argv = ['faceshifter', '--version']\n"
        "main.main()\nprint(os.environ['OMP_WAIT_POLICY'])"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": own} if own else {}
    words = [sys.executable, "-c", code]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.split()[-1] == (own or "passive")


def test_a_result_whose_name_has_a_null_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be a file's name; correct it"):
        write_atomically(tmp_path / "a\0.png", b"x")
    assert not list(tmp_path.iterdir())


def test_sound_that_the_container_refuses_is_left_out_and_told(tmp_path: Path) -> None:
    write_videos(tmp_path)
    apply([["insert", 0.695, 6]], tmp_path / "e.ts")
    summary = swap_video(swapper(), Selection(identity()), tmp_path / "e.ts", tmp_path / "out.mp4")
    assert summary.dropped == ("damaged parts of audio 1",)


def test_a_png_whose_end_is_not_reached_has_no_texts(tmp_path: Path) -> None:
    write_tar(tmp_path)
    tokens = [["insert", 0.7914906467685013, 9], ["insert", 0.10073833060582828, 19]]
    again = ["part", 0.14782407899738081, "extra", 0.9186842763726181, 34]
    apply([*tokens, again], tmp_path / "photos.tar")
    read_tar(tmp_path, tmp_path / "photos.tar")
