"""Parts of the video path that need no video: colours, tracks, overlapping stages."""

import threading
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
import pytest

from faceshifter.swap.prefetch import prefetch
from faceshifter.video.colour import Colour, Converter
from faceshifter.video.tracks import MAX_GAP, TrackedFace, TrackedFrame, follow, steady

FACE = np.array([[-20, -20], [20, -20], [0, 0], [-15, 20], [15, 20]], float)
TICK = Fraction(1, 25)
RNG = np.random.default_rng(0)


def frame_of(number: int, *centres: tuple[float, float], change: float = 0.0) -> TrackedFrame:
    faces = []
    for centre in centres:
        landmarks = FACE + centre
        (x0, y0), (x1, y1) = landmarks.min(axis=0).tolist(), landmarks.max(axis=0).tolist()
        faces.append(TrackedFace((x0, y0, x1, y1), landmarks))
    return TrackedFrame(number, number, 1, change, faces)


def centres(frames: list[TrackedFrame], track: int = 0) -> dict[int, np.ndarray]:
    return {
        frame.number: face.landmarks.mean(axis=0) - FACE.mean(axis=0)
        for frame in frames
        for face in frame.faces
        if face.track == track
    }


def path(points: list[tuple[float, float]]) -> np.ndarray:
    frames = [frame_of(idx, point) for idx, point in enumerate(points)]
    found = centres(list(steady(follow(frames, TICK), TICK)))
    return np.stack([found[idx] for idx in range(len(points))])


def test_a_constant_movement_is_followed_without_lag() -> None:
    points = [(3.0 * idx, 100 - 1.5 * idx) for idx in range(30)]
    np.testing.assert_allclose(path(points), points, atol=1e-6)


def test_the_jitter_of_a_face_at_rest_falls_to_less_than_half() -> None:
    noise = RNG.normal(0, 0.5, (60, 2))
    before, after = np.diff(noise, 2, axis=0).std(), np.diff(path(noise.tolist()), 2, axis=0).std()
    assert after < before / 2


def test_a_sudden_movement_is_not_blurred() -> None:
    points = [(0.0, 0.0)] * 10 + [(15.0 * idx, 0.0) for idx in range(1, 6)] + [(75.0, 0.0)] * 10
    assert abs(path(points) - points).max() < 1


def test_people_keep_their_numbers_in_whatever_order_they_are_found() -> None:
    frames = []
    for idx in range(12):
        pair = (50 + 3.0 * idx, 0.0), (250 - 3.0 * idx, 0.0)
        frames.append(frame_of(idx, *(pair if idx % 2 else pair[::-1])))
    found = list(follow(frames, TICK))
    assert {face.track for frame in found for face in frame.faces} == {0, 1}
    assert np.diff([x for x, _ in centres(found, 1).values()]) == pytest.approx(3)


def test_a_short_gap_is_bridged_on_a_straight_line_and_a_long_one_is_not() -> None:
    for gap, bridged in ((MAX_GAP, MAX_GAP), (MAX_GAP + 1, 0)):
        shown = [*range(5), *range(5 + gap, 12 + gap)]
        frames = [frame_of(i, *[(2.0 * i, 0.0)] * (i in shown)) for i in range(12 + gap)]
        found = list(follow(frames, TICK))
        assert [frame.number for frame in found] == list(range(12 + gap))
        filled = [face for frame in found for face in frame.faces if face.bridged]
        assert len(filled) == bridged
        if bridged:
            for number, centre in centres(found).items():
                assert centre == pytest.approx((2.0 * number, 0))


def test_no_gap_is_bridged_over_a_second_or_a_cut() -> None:
    frames = [frame_of(idx, *[(0.0, 0.0)] * (idx != 5)) for idx in range(10)]
    assert not any(f.bridged for frame in follow(frames, Fraction(1)) for f in frame.faces)
    frames[6] = frame_of(6, (0.0, 0.0), change=0.9)
    found = list(follow(frames, TICK))
    assert not any(face.bridged for frame in found for face in frame.faces)
    assert {face.track for frame in found for face in frame.faces} == {0, 1}


def test_landmarks_are_not_smoothed_over_a_cut() -> None:
    frames = [frame_of(i, (0.0 if i < 10 else 4.0, 0.0), change=0.9 * (i == 10)) for i in range(20)]
    found = list(steady(follow(frames, TICK), TICK))
    for frame in found:
        assert frame.faces[0].landmarks == pytest.approx(frames[frame.number].faces[0].landmarks)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("matrix", [1, 6, 9])
@pytest.mark.parametrize("levels", [1, 2])
def test_a_change_reaches_its_colours_and_touches_nothing_else(
    pixel_format: str, matrix: int, levels: int
) -> None:
    converter = Converter(Colour(matrix, levels, 1, 1), 64, 64, pixel_format)
    ramp = np.linspace(30, 200, 64)
    picture = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 150.0)], 2)
    rgb = av.VideoFrame.from_ndarray(picture.astype(np.uint8), "rgb24")
    range_name = "JPEG" if levels == 2 else "MPEG"
    frame = rgb.reformat(
        format=pixel_format,
        src_color_range="JPEG",
        dst_color_range=range_name,
        dst_colorspace=matrix,
    )
    original = [bytes(plane) for plane in frame.planes]
    before = converter.to_rgb(frame)
    assert abs(before.astype(int) - picture).mean() < 3
    after = before.copy()
    after[21:40, 11:32] = (200, 60, 90)
    changed = converter.change(frame, before, after)
    back = converter.to_rgb(changed).astype(int)
    inside = back[24:36, 14:28]
    assert abs(inside - (200, 60, 90)).mean() < 2.5
    assert abs(inside.mean(axis=(0, 1)) - (200, 60, 90)).max() < 1.5
    outside = np.ones((64, 64), bool)
    outside[18:42, 8:34] = False
    assert np.array_equal(back[outside], before[outside])
    assert sum(a != bytes(b) for a, b in zip(original, changed.planes, strict=True)) == 3


def test_no_change_is_the_same_frame_bit_by_bit() -> None:
    converter = Converter(Colour(1, 1, 1, 1), 16, 16, "yuv420p")
    frame = av.VideoFrame.from_ndarray(RNG.integers(0, 256, (24, 16), np.uint8), "yuv420p")
    before = converter.to_rgb(frame)
    planes = [bytes(plane) for plane in frame.planes]
    assert [bytes(p) for p in converter.change(frame, before, before.copy()).planes] == planes


def test_stages_overlap_but_stay_only_a_few_items_ahead() -> None:
    ahead: list[int] = []
    taken = 0
    third = threading.Event()

    def count() -> Iterator[int]:
        for number in range(100):
            ahead.append(number - taken)
            if number == 3:
                third.set()
            yield number

    items = prefetch(count(), 3)
    assert next(items) == 0
    taken = 1
    assert third.wait(60)  # made while nobody asks for it
    for number in items:
        assert number == taken
        taken += 1
    assert taken == 100
    assert max(ahead) <= 4  # three in the queue and one that has just left it


def test_a_stage_s_error_arrives_after_its_items_and_an_abandoned_stage_ends() -> None:
    def fail() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = prefetch(fail(), 2)
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = prefetch(endless(), 2)
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert closed.is_set()
