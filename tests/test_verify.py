import io
import json
import struct
import sys
from functools import partial
from importlib import metadata

import c2pa
import cv2
import numpy as np
import pytest
from PIL import Image

from faceshifter.checks import doctor
from faceshifter.checks.verify import inspect, sample_frames
from faceshifter.cli import main as cli
from faceshifter.downloads import MODEL_FILES
from faceshifter.images import Photo, save_photo
from faceshifter.marks import signer
from faceshifter.marks.c2pa import mark_video
from faceshifter.marks.watermark import THRESHOLD, embed_watermark
from faceshifter.marks.xmp import IPTC_EXT, RDF
from faceshifter.swap import swapper

CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line and return exit code, output and error output."""

    def run_command(*words):
        monkeypatch.setattr(sys, "argv", ["faceshifter", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as exit_:
            code = exit_.code
        return code, *capsys.readouterr()

    return run_command


def write_video(path, frames, codec="libx264", **options):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


def test_a_result_has_every_mark(run, tmp_path, grace_hopper):
    path = tmp_path / "a.jpg"
    save_photo(path, Photo(grace_hopper))
    code, out, err = run("verify", path)
    assert (code, err) == (0, "")
    name, xmp, signature, manifest, said, mark = out.splitlines()
    assert name == str(path)
    assert xmp.startswith("  XMP: compositeWithTrainedAlgorithmicMedia, by faceshifter ")
    assert "nobody vouches for the signer, who claims to be faceshifter, key made" in signature
    assert manifest.startswith("  C2PA: compositeWithTrainedAlgorithmicMedia, by faceshifter ")
    assert said == "  C2PA: says that the picture itself is marked"
    assert mark.startswith("  watermark: ours (score ")


def test_a_photo_of_a_camera_has_none(run, tmp_path, grace_hopper_path):
    code, out, err = run("verify", grace_hopper_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[1:3] == ["  XMP: no digital source type", "  C2PA: no manifest"]
    assert out.splitlines()[3].startswith("  watermark: none of ours (score ")


def test_a_copy_without_metadata_still_has_the_watermark(run, tmp_path, grace_hopper):
    save_photo(tmp_path / "a.png", Photo(grace_hopper))
    with Image.open(tmp_path / "a.png") as image:
        image.resize((256, 300)).convert("RGB").save(tmp_path / "shared.jpg", quality=75)
    lines = run("verify", tmp_path / "shared.jpg")[1].splitlines()
    assert lines[1:3] == ["  XMP: no digital source type", "  C2PA: no manifest"]
    assert lines[3].startswith("  watermark: ours")


def test_a_changed_result_is_not_believed(run, tmp_path, grace_hopper):
    save_photo(tmp_path / "a.jpg", Photo(grace_hopper))
    content = (tmp_path / "a.jpg").read_bytes()
    assert content.count(b"Tool>faceshifter") == 1
    (tmp_path / "a.jpg").write_bytes(content.replace(b"Tool>faceshifter", b"Tool>facecameras"))
    code, out, _ = run("verify", tmp_path / "a.jpg")
    assert code == 0
    assert "XMP: compositeWithTrainedAlgorithmicMedia, by facecameras" in out
    assert "C2PA: invalid (" in out


def test_marks_of_other_tools_are_told(run, tmp_path, grace_hopper, config):
    xmp = (
        f'<r:RDF xmlns:r="{RDF}" xmlns:i="{IPTC_EXT}" xmlns:x="http://ns.adobe.com/xap/1.0/">'
        f'<r:Description i:DigitalSourceType="{CAPTURE}" x:CreatorTool="Camera&#10;II"/></r:RDF>'
    )
    unsigned = io.BytesIO()
    Image.fromarray(grace_hopper).save(unsigned, "JPEG", xmp=xmp.encode())
    algorithm, chain, key = signer.load_signer(signer.ensure_signer())
    actions = [{"action": "c2pa.created", "digitalSourceType": CAPTURE}]
    manifest = {
        "claim_generator_info": [{"name": "Camera \x1b[31m"}],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": actions}}],
    }
    with (
        c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None)) as own,
        c2pa.Builder(manifest) as builder,
        (tmp_path / "a.jpg").open("wb+") as file,
    ):
        builder.sign(own, "image/jpeg", unsigned, file)
    code, out, _ = run("verify", tmp_path / "a.jpg")
    assert code == 0
    assert "  XMP: digitalCapture, by Camera" in out
    assert "  C2PA: digitalCapture, by Camera ?[31m\n" in out
    assert "\x1b" not in out
    assert "watermark: none of ours" in out
    assert "says that the picture itself" not in out


def test_json_holds_the_same_and_a_bad_file_does_not_stop_the_others(run, tmp_path, grace_hopper):
    save_photo(tmp_path / "a.png", Photo(grace_hopper))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:5000])
    (tmp_path / "c.txt").write_text("hello")
    files = [tmp_path / name for name in ("b.png", "c.txt", "missing.mp4", "a.png")]
    code, out, err = run("verify", *files, "--json")
    assert code == 2
    assert [line.split(": ")[0] for line in err.splitlines()] == ["faceshifter"] * 3
    bad, text, missing, good = json.loads(out)
    assert all("error" in row for row in (bad, text, missing))
    assert good["watermark"] is True
    assert good["watermark_score"] > THRESHOLD
    assert good["xmp"]["tool"] == good["manifest"]["generator"]
    assert good["manifest"]["state"] == "Valid"


def test_nothing_to_verify_is_one_sentence(run):
    code, out, err = run("verify")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_video_s_frames_are_looked_at_together(run, tmp_path, astronaut, suffix):
    portrait = cv2.resize(astronaut, (320, 320), interpolation=cv2.INTER_AREA)
    frames = [np.roll(portrait, 3 * idx, axis=1) for idx in range(16)]
    path = tmp_path / f"a.{suffix}"
    write_video(path, frames, crf="23", g="8")
    assert inspect(path).watermark_score < THRESHOLD
    write_video(path, [embed_watermark(frame) for frame in frames], crf="23", g="8")
    if suffix != "mkv":
        mark_video(path)
    found = inspect(path)
    assert found.kind == "video"
    assert found.watermark_score > THRESHOLD
    assert (found.xmp is None) == (found.manifest is None) == (suffix == "mkv")
    code, out, _ = run("verify", path)
    assert code == 0
    assert "watermark: ours" in out


def test_padding_of_a_video_is_not_said_to_be_signed(run, tmp_path, astronaut):
    path = tmp_path / "a.mp4"
    write_video(path, [embed_watermark(cv2.resize(astronaut, (320, 320)))] * 3)
    mark_video(path)
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", 5008, b"free") + bytes(5000))
    code, out, _ = run("verify", path)
    assert code == 0
    assert "C2PA: valid, pictures and sound unchanged since it was signed" in out


@pytest.mark.parametrize("suffix", ["jpg", "mp4"])
def test_a_manifest_that_is_kept_elsewhere_is_not_called_invalid(
    run, tmp_path, astronaut, suffix, config
):
    plain, path = tmp_path / f"plain.{suffix}", tmp_path / f"a.{suffix}"
    if suffix == "mp4":
        write_video(plain, [cv2.resize(astronaut, (128, 128))] * 3)
    else:
        Image.fromarray(astronaut).save(plain)
    algorithm, chain, key = signer.load_signer(signer.ensure_signer())
    actions = [{"action": "c2pa.created", "digitalSourceType": CAPTURE}]
    assertions = [{"label": "c2pa.actions", "data": {"actions": actions}}]
    with (
        c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, chain, key, None)) as own,
        c2pa.Builder({"assertions": assertions}) as builder,
        plain.open("rb") as source,
        path.open("wb+") as file,
    ):
        builder.set_no_embed()
        builder.set_remote_url("http://example.com/a.c2pa")
        builder.sign(own, {"jpg": "image/jpeg", "mp4": "video/mp4"}[suffix], source, file)
    code, out, _ = run("verify", path)
    assert code == 0
    assert "elsewhere and not fetched: http://example.com/a.c2pa\n" in out
    assert "invalid" not in out


@pytest.mark.parametrize("length", [20, 400, -2000])
def test_a_video_cut_off_is_one_sentence(run, tmp_path, astronaut, length):
    write_video(tmp_path / "a.mp4", [cv2.resize(astronaut, (128, 128))] * 3)
    (tmp_path / "a.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:length])
    code, out, err = run("verify", tmp_path / "a.mp4")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "a.mp4" in err


def problems(**checks):
    """Names and remedies of what is wrong."""
    return {check.name: check.remedy for check in doctor.examine(checks) if check.remedy}


def test_the_doctor_finds_this_installation_well(monkeypatch, tmp_path, portraits):
    monkeypatch.setenv("FACESHIFTER_CACHE", str(tmp_path))
    photos = [np.asarray(portrait) for portrait in portraits]
    checks = doctor.INSTALLATION_CHECKS | {
        "encoder": partial(doctor.check_encoder, photos),
        "disk": partial(doctor.check_disk, min_free=0),
    }
    found = list(doctor.examine(checks))
    assert [check for check in found if check.remedy] == []
    assert {check.name for check in found} == set(doctor.INSTALLATION_CHECKS)
    assert "not checked" not in str(found)


def test_the_doctor_prints_problems_with_remedies_and_exits_with_1(run, monkeypatch):
    wrong = [doctor.Check("one", "fine"), doctor.Check("two", "missing", "Get it.")]
    monkeypatch.setattr(doctor, "examine", lambda: wrong)
    assert run("doctor") == (
        1,
        "ok      one: fine\nPROBLEM two: missing\n        Get it.\n1 problem\n",
        "",
    )
    monkeypatch.setattr(doctor, "examine", lambda: wrong[:1])
    assert run("doctor")[0] == 0


def test_the_doctor_finds_what_is_damaged_or_missing(monkeypatch, tmp_path):
    (tmp_path / MODEL_FILES["yunet"].file).write_text("hello")
    (tmp_path / "own.pem").write_text("hello")
    monkeypatch.setenv("FACESHIFTER_CACHE", str(tmp_path))
    monkeypatch.setenv("FACESHIFTER_SIGNER", str(tmp_path / "own.pem"))
    found = problems(
        weights=partial(doctor.check_weights, tmp_path),
        signing=doctor.check_signing,
        models=doctor.check_model_files,
        codecs=partial(doctor.check_codecs, {"H.264": ("unheard_of",)}),
        disk=partial(doctor.check_disk, min_free=1e30),
    )
    assert list(found) == ["weights", "signing", "models", "codecs", "disk"]


def test_the_doctor_sees_a_wrong_crop_and_swapped_colours(monkeypatch, portraits):
    photos = [np.asarray(portrait) for portrait in portraits]
    crop_face = swapper.crop_face
    own = swapper.FaceSwapper.from_pretrained(hear=False, device="cpu")
    monkeypatch.setattr(swapper.FaceSwapper, "from_pretrained", lambda **options: own)

    def wrong(pixels, matrix, size):
        if fault == "colours":
            return np.ascontiguousarray(crop_face(pixels, matrix, size)[..., ::-1])
        scale, shift = (1.15, 0) if fault == "scale" else (1, 0.1 * size)
        change = np.array([[scale, 0, shift], [0, scale, shift]])
        change[:, 2] += (1 - scale) * size / 2
        return crop_face(pixels, (change @ np.vstack([matrix, [0, 0, 1]])), size)

    monkeypatch.setattr(swapper, "crop_face", wrong)
    for fault in ("colours", "shift", "scale"):  # noqa: B007  # which wrong reads
        assert "encoder" in problems(encoder=partial(doctor.check_encoder, photos))


def test_the_doctor_sees_a_certificate_that_runs_out(monkeypatch, tmp_path):
    (tmp_path / "own.pem").write_bytes(signer.make_signer(years=0.05))
    monkeypatch.setenv(signer.SIGNER_VARIABLE, str(tmp_path / "own.pem"))
    assert "new certificate" in problems(signing=doctor.check_signing)["signing"]


def test_the_doctor_makes_no_key(monkeypatch, tmp_path):
    monkeypatch.setenv("FACESHIFTER_CONFIG", str(tmp_path / "config"))
    ((found, remedy),) = doctor.check_signing()
    assert remedy is None
    assert "made on first use" in found
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_tells_which_of_two_opencvs_is_on_top(monkeypatch):
    two = {"cv2": ["numpy", "pillow"]}  # any two that are installed
    monkeypatch.setattr(metadata, "packages_distributions", lambda: two)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:    QT5\n")
    assert "opencv" in problems(opencv=doctor.check_opencv)
    monkeypatch.setattr(cv2, "getBuildInformation", lambda: "  GUI:    NONE\n")
    assert problems(opencv=doctor.check_opencv) == {}


def test_only_as_many_frames_are_decoded_as_are_looked_at(tmp_path, astronaut):
    frames = [np.full((64, 64, 3), 10 * idx, np.uint8) for idx in range(20)]
    write_video(tmp_path / "a.mp4", frames, g="5")
    levels = [frame.mean() for frame in sample_frames(tmp_path / "a.mp4", 4)]
    np.testing.assert_allclose(levels, [30, 80, 130, 180], atol=12)
