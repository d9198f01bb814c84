import json
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image

from faceshifter import downloads as dlib_files
from faceshifter.config import CropGeometry
from faceshifter.errors import DependencyError, NoFaceError
from faceshifter.face import detect, landmarks
from faceshifter.face.align import (
    crop_face,
    crop_matrix,
    invert_matrix,
    template_points,
    transform_points,
)
from faceshifter.face.detect import DlibDetector, YuNetDetector, load_detector
from faceshifter.face.paste import paste_face

GEOMETRY = CropGeometry()
MIRRORED = [1, 0, 2, 4, 3]
HOPPER = np.array([[223, 193], [308, 188], [269, 237], [234, 279], [307, 274]], float)  # by eye
RNG = np.random.default_rng(0)


def eye_distance(landmarks):
    return np.linalg.norm(landmarks[1] - landmarks[0])


def crop_distance(a, b):
    """Mean distance of the template's points in the photo by two crops, in eye distances of b."""
    template = template_points(GEOMETRY, 256)
    in_photo = [
        transform_points(invert_matrix(crop_matrix(landmarks, GEOMETRY, 256)), template)
        for landmarks in (a, b)
    ]
    return np.linalg.norm(in_photo[0] - in_photo[1], axis=1).mean() / eye_distance(b)


def mirror_landmarks(landmarks, width):
    return np.column_stack([width - 1 - landmarks[:, 0], landmarks[:, 1]])[MIRRORED]


def similarity(scale, degrees, x=0.0, y=0.0):
    c, s = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[c, -s, x], [s, c, y]])


def rotated(pixels, degrees):
    """The photo on black, turned about its centre, and the matrix that turned it."""
    height, width = pixels.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    return cv2.warpAffine(pixels, matrix, (width, height), flags=cv2.INTER_CUBIC), matrix


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9))


def paste_mask(shape, matrix, size):
    """How much of the crop each pixel of the photo takes, in steps of 1/255: white on black."""
    white = np.full((size, size, 3), 255, np.uint8)
    return paste_face(np.zeros((*shape, 3), np.uint8), white, matrix)[..., 0] / 255


def smooth_photo(height, width):
    y, x = np.mgrid[:height, :width]
    waves = [128 + 100 * np.sin(x / a + y / b) for a, b in ((17, 23), (29, -13), (-19, 31))]
    return np.stack(waves, axis=-1).round().astype(np.uint8)


# Detection


@pytest.fixture(scope="module")
def dlib_detector():
    return DlibDetector()


def test_dlib_finds_the_five_landmarks_in_our_order(dlib_detector, grace_hopper):
    (face,) = dlib_detector.detect(grace_hopper)
    assert np.abs(face.landmarks - HOPPER).max() < 0.04 * eye_distance(HOPPER)
    x0, y0, x1, y1 = face.box
    assert (x0, y0) < tuple(HOPPER.min(axis=0)) < tuple(HOPPER.max(axis=0)) < (x1, y1)


def test_a_mirrored_photo_gives_the_mirrored_crop(dlib_detector, grace_hopper, astronaut):
    for pixels in (grace_hopper, astronaut):
        face = dlib_detector.detect(pixels)[0]
        mirrored = dlib_detector.detect(np.ascontiguousarray(pixels[:, ::-1]))[0]
        landmarks = mirror_landmarks(mirrored.landmarks, pixels.shape[1])
        assert np.abs(landmarks - face.landmarks).max() < 0.02 * eye_distance(face.landmarks)
        assert crop_distance(landmarks, face.landmarks) < 0.01  # 1 pixel of a crop of 256


@pytest.mark.parametrize("degrees", [20, -45, 90, 180])
def test_a_rolled_face_is_found_in_place(dlib_detector, astronaut, degrees):
    photo = astronaut[:260, 90:350]
    upright = dlib_detector.detect(np.ascontiguousarray(photo))[0].landmarks
    turned, matrix = rotated(photo, degrees)
    found = dlib_detector.detect(turned)[0].landmarks
    assert crop_distance(found, transform_points(matrix, upright)) < 0.02


def test_a_large_photo_with_a_rolled_face_at_its_border(dlib_detector, astronaut):
    """4000 x 3000, the portrait at its lower right, by 20 degrees, chin close to the edge."""
    photo = np.full((3000, 4000, 3), 90, np.uint8)
    matrix = similarity(8, 20)
    matrix[:, 2] = (3300, 2680) - matrix[:, :2] @ (224, 126)
    cv2.warpAffine(astronaut, matrix, (4000, 3000), photo, cv2.INTER_CUBIC, cv2.BORDER_TRANSPARENT)
    expected = transform_points(matrix, dlib_detector.detect(astronaut)[0].landmarks)
    face = dlib_detector.detect(photo)[0]
    assert crop_distance(face.landmarks, expected) < 0.02
    crop_to = crop_matrix(face.landmarks, GEOMETRY, 256)
    pasted = paste_face(photo, crop_face(photo, crop_to, 256), crop_to)
    mask = paste_mask((3000, 4000), crop_to, 256)
    assert mask[-1].max() > 0.5  # the crop hangs over the lower border
    assert psnr(pasted, photo) > 35


def test_a_small_face_is_found_by_doubling_the_photo(dlib_detector, astronaut, monkeypatch):
    small = cv2.resize(astronaut, (280, 280), interpolation=cv2.INTER_AREA)
    found = dlib_detector.detect(small, thorough=False)[0].landmarks
    expected = (dlib_detector.detect(astronaut)[0].landmarks + 0.5) * 280 / 512 - 0.5
    assert crop_distance(found, expected) < 0.03
    monkeypatch.setattr(detect, "HOG_UPSAMPLE_SIDE", 279)
    assert not dlib_detector.detect(small, thorough=False)


def test_where_hog_finds_nothing_the_network_does(dlib_detector, grace_hopper, monkeypatch):
    monkeypatch.setattr(detect, "HOG_SCORE", 100.0)
    small = cv2.resize(grace_hopper, (256, 300), interpolation=cv2.INTER_AREA)
    (face,) = dlib_detector.detect(small)
    assert crop_distance(face.landmarks * 2 + 0.5, HOPPER) < 0.04


def test_what_hog_takes_for_faces_and_the_network_does_not_is_left_out(
    dlib_detector, astronaut, monkeypatch
):
    monkeypatch.setattr(detect, "HOG_SCORE", -0.5)  # patches, buttons and the helmet
    for thorough in (False, True):
        (face,) = dlib_detector.detect(astronaut, thorough=thorough)
        assert face.score > 0.5


def test_an_unsure_face_stays_where_the_network_sees_it_too(
    dlib_detector, grace_hopper, monkeypatch
):
    monkeypatch.setattr(detect, "HOG_SURE", 100.0)
    (face,) = dlib_detector.detect(grace_hopper, thorough=False)
    assert crop_distance(face.landmarks, HOPPER) < 0.04


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_people_who_lie_beside_upright_ones_are_found(
    dlib_detector, grace_hopper, astronaut, turns
):
    photo = np.zeros((600, 1024, 3), np.uint8)
    photo[:, :512] = grace_hopper
    photo[44:556, 512:] = np.rot90(astronaut, turns)
    first, second = dlib_detector.detect(photo)
    assert crop_distance(first.landmarks, HOPPER) < 0.04
    (alone,) = dlib_detector.detect(astronaut)
    to_astronaut = similarity(1, 90 * turns)
    centre = [[255.5, 255.5]]
    to_astronaut[:, 2] += centre[0] - transform_points(to_astronaut, np.array(centre))[0]
    expected = transform_points(invert_matrix(to_astronaut), alone.landmarks)
    expected += (512, 44)
    assert crop_distance(second.landmarks, expected) < 0.03


def test_the_largest_face_comes_first(dlib_detector, grace_hopper):
    half = cv2.resize(grace_hopper, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    photo = np.zeros((grace_hopper.shape[0], 800, 3), np.uint8)
    photo[: half.shape[0], : half.shape[1]] = half
    photo[:, 288:] = grace_hopper
    first, second = dlib_detector.detect(photo)
    assert np.abs(first.landmarks - HOPPER - (288, 0)).max() < 5
    assert np.abs(second.landmarks - HOPPER / 2).max() < 5


@pytest.mark.parametrize("shape", [(1, 1), (2, 300), (20, 20), (19, 40), (200, 200)])
def test_noise_has_no_face(dlib_detector, shape):
    assert dlib_detector.detect(RNG.integers(0, 256, (*shape, 3), np.uint8)) == []


def test_a_missing_or_foreign_model_file_is_named(tmp_path):
    with pytest.raises(DependencyError, match=r"yunet\.onnx does not exist"):
        load_detector(tmp_path / "yunet.onnx")
    (tmp_path / "yunet.onnx").write_bytes(b"hello")
    with pytest.raises(DependencyError, match=r"yunet\.onnx is not a YuNet model"):
        load_detector(tmp_path / "yunet.onnx")


def test_a_missing_package_of_models_is_named(monkeypatch):
    monkeypatch.setattr(dlib_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match="run pip install face-recognition-models"):
        dlib_files.dlib_file("any.dat")


def test_dlibs_landmarks_follow_similarities_and_mirroring():
    """The baked map: rows add up to one, and mirrored points give mirrored landmarks."""
    A = landmarks.DLIB_TO_LANDMARKS
    assert np.abs(A.sum(axis=1) - 1).max() < 1e-9
    z = RNG.normal(size=5) + 1j * RNG.normal(size=5)
    mirrored = A @ -z.conj()[landmarks.MIRROR]
    assert np.abs(mirrored[MIRRORED] + (A @ z).conj()).max() < 1e-9


# Detection with the shared models and photos


@pytest.fixture
def yunet(shared):
    return YuNetDetector(shared / "models/yunet_n.onnx")


def photos(shared, name, limit):
    with tarfile.open(shared / f"data/val/{name}-000.tar") as tar:
        members = tar.getmembers()
        for member in members[:: max(len(members) // limit, 1)][:limit]:
            with Image.open(tar.extractfile(member)) as image:
                yield member.name, np.array(image.convert("RGB"))


@pytest.mark.parametrize("limit", [20, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["generated", "utkface", "lfw"])
def test_both_detectors_give_the_same_crop(shared, yunet, dlib_detector, name, limit):
    distances = []
    for _, pixels in photos(shared, name, limit):
        first, second = yunet.detect(pixels), dlib_detector.detect(pixels)
        centre = first[0].landmarks.mean(axis=0)
        same = min(second, key=lambda face: np.linalg.norm(face.landmarks.mean(axis=0) - centre))
        distances.append(crop_distance(same.landmarks, first[0].landmarks))
    assert np.mean(distances) < 0.03
    assert np.median(distances) < 0.01


@pytest.mark.parametrize("name", ["generated", "utkface"])
def test_landmarks_are_near_those_of_the_index(shared, dlib_detector, name):
    with (shared / "data/val/index.jsonl").open() as file:
        index = {line["file"]: line for line in map(json.loads, file)}
    distances = []
    for file, pixels in photos(shared, name, 20):
        known = np.array(index[file]["landmarks"])
        distances.append(crop_distance(dlib_detector.detect(pixels)[0].landmarks, known))
    assert np.mean(distances) < 0.1  # YuNet's own landmarks scatter by 0.07 when mirrored


@pytest.mark.parametrize("degrees", [0, 45, 90, 180])
def test_yunet_finds_rolled_faces_where_dlib_does(yunet, dlib_detector, astronaut, degrees):
    upright = dlib_detector.detect(astronaut)[0].landmarks
    turned, matrix = rotated(astronaut, degrees)
    assert (
        crop_distance(yunet.detect(turned)[0].landmarks, transform_points(matrix, upright)) < 0.03
    )


def test_yunet_finds_a_face_that_fills_a_large_photo(yunet, dlib_detector, astronaut):
    photo = cv2.resize(astronaut[60:200, 170:290], (2400, 2800), interpolation=cv2.INTER_CUBIC)
    (face,) = yunet.detect(photo)
    assert crop_distance(face.landmarks, dlib_detector.detect(photo)[0].landmarks) < 0.03


def test_yunet_finds_nothing_in_noise(yunet):
    for shape in ((1, 1), (20, 300), (200, 200)):
        assert yunet.detect(RNG.integers(0, 256, (*shape, 3), np.uint8)) == []


# Alignment


def test_the_crop_matrix_inverts_any_similarity_exactly():
    template = template_points(GEOMETRY, 256)
    for degrees in (0, 33, -90, 180):
        to_photo = similarity(3.7, degrees, 800, -40)
        matrix = crop_matrix(transform_points(to_photo, template), GEOMETRY, 256)
        assert np.abs(matrix - invert_matrix(to_photo)).max() < 1e-9


def test_the_crop_matrix_is_umeyamas():
    """Against the textbook's singular value decomposition, for points that do not fit exactly."""
    landmarks = HOPPER + RNG.normal(0, 5, (5, 2))
    template = template_points(GEOMETRY, 256)
    x, y = landmarks - landmarks.mean(axis=0), template - template.mean(axis=0)
    u, d, vt = np.linalg.svd(y.T @ x / 5)
    sign = np.diag([1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    linear = np.trace(np.diag(d) @ sign) / (x**2).sum(axis=1).mean() * u @ sign @ vt
    shift = template.mean(axis=0) - linear @ landmarks.mean(axis=0)
    assert np.allclose(crop_matrix(landmarks, GEOMETRY, 256), np.column_stack([linear, shift]))


@pytest.mark.parametrize(
    "landmarks",
    [np.full((5, 2), 7.0), np.full((5, 2), np.nan), HOPPER * (-1, 1), HOPPER[[2, 0, 3, 1, 4]]],
    ids=["one point", "not a number", "mirrored", "mixed up"],
)
def test_landmarks_that_are_no_face_are_refused(landmarks):
    with pytest.raises(NoFaceError, match="five landmarks do not form a face"):
        crop_matrix(landmarks, GEOMETRY, 256)


def test_a_crop_twice_as_large_shows_the_same(grace_hopper):
    """The template's fractions refer to outer edges, so sizes agree without a shift."""
    large = crop_face(grace_hopper, crop_matrix(HOPPER, GEOMETRY, 512), 512)
    small = crop_face(grace_hopper, crop_matrix(HOPPER, GEOMETRY, 256), 256)
    assert psnr(cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA), small) > 38


def test_a_crop_in_whole_pixels_copies_the_photo(grace_hopper):
    matrix = np.array([[1.0, 0, -100], [0, 1, -200]])
    assert np.array_equal(crop_face(grace_hopper, matrix, 64), grace_hopper[200:264, 100:164])


@pytest.mark.parametrize("factor", [2, 5, 16])
def test_a_crop_that_shrinks_averages_areas(factor):
    """Also of noise, which bilinear sampling would alias into noise."""
    photo = RNG.integers(0, 256, (64 * factor, 64 * factor, 3), np.uint8)
    means = photo.reshape(64, factor, 64, factor, 3).mean(axis=(1, 3))
    matrix = similarity(1 / factor, 0, 0.5 / factor - 0.5, 0.5 / factor - 0.5)
    assert np.abs(crop_face(photo, matrix, 64) - means).max() < 1


def test_a_turned_crop_of_fine_stripes_does_not_alias():
    photo = np.zeros((900, 900, 3), np.uint8)
    photo[:, ::2] = 255
    matrix = similarity(0.23, 30)
    matrix[:, 2] = 63.5 - matrix[:, :2] @ (449.5, 449.5)
    assert np.abs(crop_face(photo, matrix, 128).astype(float) - 127.5).max() < 40
    naive = cv2.warpAffine(photo, matrix, (128, 128))
    assert np.abs(naive.astype(float) - 127.5).max() > 100


def test_a_crop_over_the_border_reflects_the_photo():
    photo = smooth_photo(60, 80)
    matrix = np.array([[1.0, 0, 20], [0, 1, 20]])
    padded = np.pad(photo, ((20, 20), (20, 20), (0, 0)), mode="reflect")
    assert np.array_equal(crop_face(photo, matrix, 100), padded[:100, :100])


# Paste-back

PLACES = {
    "upright": similarity(1.0, 0, -40.3, -30.7),
    "rolled": similarity(1.3, 37, 60, -200),
    "upside down": similarity(0.9, 180, 220, 210),
    "smaller than the crop": similarity(3.3, -20, -300, -300),
    "over the corner": similarity(1.1, 10, 90, 60),
}


@pytest.mark.parametrize("place", PLACES)
def test_an_unchanged_crop_pastes_back_to_the_photo(place):
    photo = smooth_photo(300, 340)
    matrix, before = PLACES[place], photo.copy()
    pasted = paste_face(photo, crop_face(photo, matrix, 256), matrix)
    mask = paste_mask((300, 340), matrix, 256)
    assert psnr(pasted[mask > 0], photo[mask > 0]) > 45
    assert np.array_equal(photo, before)
    assert pasted is not photo


@pytest.mark.parametrize("place", PLACES)
def test_a_new_crop_changes_its_quadrilateral_and_nothing_else(place):
    photo, matrix = np.zeros((300, 340, 3), np.uint8), PLACES[place]
    pasted = paste_face(photo, np.full((256, 256, 3), 200, np.uint8), matrix)
    y, x = np.mgrid[:300.0, :340.0]
    u, v = np.moveaxis(transform_points(matrix, np.column_stack([x.ravel(), y.ravel()])), 1, 0)
    inside = np.minimum([u + 0.5, v + 0.5], [255.5 - u, 255.5 - v]).reshape(2, 300, 340)
    assert (pasted[inside.min(axis=0) <= 0] == 0).all()
    assert (pasted[inside.min(axis=0) > 25.7] == 200).all()
    border = (inside / 25.6).clip(0, 1)
    weight = (border**2 * (3 - 2 * border)).prod(axis=0)  # a smooth step along both sides
    assert np.abs(pasted[..., 0] - 200 * weight).max() <= 0.51


def test_the_border_is_soft(grace_hopper):
    mask = paste_mask((300, 300), PLACES["upright"], 256)
    assert max(np.abs(np.diff(mask, axis=axis)).max() for axis in (0, 1)) < 1.6 / 25.6


def test_a_crop_beside_the_photo_changes_nothing():
    photo = smooth_photo(50, 60)
    for shift in (-500, 500):
        matrix = similarity(1, 0, shift, 0)
        assert np.array_equal(paste_face(photo, photo[:40, :40].copy(), matrix), photo)
        assert paste_mask((50, 60), matrix, 40).max() == 0


def test_a_real_face_survives_crop_and_paste(grace_hopper):
    matrix = crop_matrix(HOPPER, GEOMETRY, 256)
    pasted = paste_face(grace_hopper, crop_face(grace_hopper, matrix, 256), matrix)
    mask = paste_mask(grace_hopper.shape[:2], matrix, 256)
    assert psnr(pasted[mask > 0], grace_hopper[mask > 0]) > 40
    assert np.abs(pasted[mask == 0].astype(int) - grace_hopper[mask == 0]).max() <= 1
