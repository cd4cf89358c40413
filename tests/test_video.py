import functools
import io
import random
import struct
import subprocess
import sys
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image, ImageOps

from src import video
from src.decoding import decoded
from src.drawing import clips
from src.media import BadMediaError, fingerprint
from src.quality import measure
from src.schema import Drawn

ROOT = Path(__file__).parents[1]
REAL = ROOT / "../shared/real"
real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/real is not there")

STEP = 4  # of grey from one numbered frame to the next


def numbered(count: int, side: int = 64, noise: int = 0) -> list[np.ndarray]:
    """Frames of which each says its number by how light it is."""
    rng = np.random.default_rng(1)
    return [
        np.clip(30 + STEP * k + rng.integers(-noise, noise + 1, (side, side, 1)), 0, 255)
        .repeat(3, 2)
        .astype(np.uint8)
        for k in range(count)
    ]


def write(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "mpeg4",
    times: Sequence[int] | None = None,
    movflags: str = "faststart",
    form: str = "yuv420p",
    start: int = 0,
    rate: int = 10,
) -> Path:
    """A video of RGB(A) or grey frames, shown at `times` in tenths of a second."""
    options = {"movflags": movflags} if movflags and path.suffix in (".mp4", ".mov") else {}
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate, {"g": "12"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = form
        if codec == "mpeg4":
            stream.codec_context.options = {"qmin": "2", "qmax": "3", "g": "12"}
        for k, pixels in enumerate(frames):
            kind = {(): "gray", (3,): "rgb24", (4,): "rgba"}[pixels.shape[2:]]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format=kind)
            frame.pts = start + (times[k] if times else k)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def pictures(stored) -> list[np.ndarray]:
    return [np.asarray(Image.open(io.BytesIO(frame)), float) for frame in stored.frames]


def numbers(stored) -> list[int]:
    """The numbers of the frames that were kept."""
    return [round((frame.mean() - 30) / STEP) for frame in pictures(stored)]


def reason(path: Path) -> str:
    with pytest.raises(BadMediaError) as error:
        video.stored(path, 28, 8)
    return str(error.value)


FORMATS = [
    ("a.mp4", "mpeg4"),
    ("a.mp4", "libx264"),
    ("a.mov", "libx264"),
    ("a.mkv", "libx264"),
    ("a.avi", "mpeg4"),
    ("a.webm", "libvpx-vp9"),
    ("a.webm", "libvpx"),
    ("a.flv", "flv"),
    ("a.ts", "libx264"),
    ("a.mpg", "mpeg1video"),
]


@pytest.mark.parametrize(("name", "codec"), FORMATS)
def test_frames_come_in_order_at_equal_intervals(tmp_path: Path, name: str, codec: str) -> None:
    rate = 25 if codec == "mpeg1video" else 10
    path = write(tmp_path / name, numbered(43), codec, rate=rate)
    kept = video.stored(path, 28, 8)
    assert numbers(kept) == [0, 6, 12, 18, 24, 30, 36, 42]
    assert (kept.width, kept.height) == (64, 64)
    for frame in kept.frames:
        picture = Image.open(io.BytesIO(frame))
        assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (28, 28))
        assert not picture.info


def test_both_decoders_read_the_same_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", numbered(20), "libx264")
    one, other = (dict(read(path, {0, 7, 19})) for read in (video._opencv, video._pyav))
    assert one.keys() == other.keys() == {0, 7, 19}
    for number, picture in one.items():
        assert np.abs(np.asarray(picture, int) - np.asarray(other[number], int)).max() <= 4


@pytest.mark.parametrize(
    ("there", "expected"),
    [(1, [0] * 8), (2, [0] * 4 + [1] * 4), (4, [0, 0, 1, 1, 2, 2, 3, 3]), (8, list(range(8)))],
)
def test_a_short_clip_has_its_frames_repeated(
    tmp_path: Path, there: int, expected: list[int]
) -> None:
    path = write(tmp_path / "a.mp4", numbered(there))
    assert numbers(video.stored(path, 28, 8)) == expected


def test_intervals_are_equal_in_time_where_frames_are_not(tmp_path: Path) -> None:
    times = [*range(20), *range(20, 200, 10)]  # 2 seconds of ten frames, 18 of one
    path = write(tmp_path / "a.mkv", numbered(38), "libx264", times)
    kept = numbers(video.stored(path, 28, 8))
    assert [times[number] for number in kept] == pytest.approx(np.linspace(0, 190, 8), abs=5)


@pytest.mark.parametrize(
    "times",
    [
        [0.0] * 15,
        [float("nan")] * 15,
        [*range(14), 1e6],
        [0, *range(10**6, 10**6 + 14)],
        [*range(8), *range(7)],
    ],
)
def test_intervals_are_counted_in_frames_where_times_make_no_sense(times: list[float]) -> None:
    assert video.equal(times, 8) == [0, 2, 4, 6, 8, 10, 12, 14]


def test_equal_takes_the_first_and_the_last_and_the_nearest_between() -> None:
    assert video.equal(np.arange(100) / 30, 4) == [0, 33, 66, 99]
    assert video.equal([0, 1, 2, 3], 3) == [0, 1, 3]
    assert video.equal([5.0], 4) == [0] * 4


QUARTERS = np.zeros((64, 96, 3), np.uint8)
QUARTERS[:32] = (200, 30, 30)
QUARTERS[32:, :48], QUARTERS[32:, 48:] = (30, 30, 200), (30, 200, 30)
MATRICES = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}


def turned(path: Path, matrix: tuple[int, ...]) -> None:
    """Write a display matrix into the header of an MP4's track."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (65536 * v for v in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 2**30)
    path.write_bytes(content)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("decoder", ["OpenCV", "PyAV"])
def test_a_turned_video_comes_out_upright_once(
    tmp_path: Path, degrees: int, decoder: str, monkeypatch
) -> None:
    path = write(tmp_path / "a.mp4", [np.rot90(QUARTERS, degrees // 90)] * 4)
    if degrees:
        turned(path, MATRICES[degrees])
    if decoder == "PyAV":
        monkeypatch.setattr(video, "_shown_rightly", lambda frame: False)
    kept = video.stored(path, 28, 4)
    assert (kept.width, kept.height) == (96, 64)
    expected = np.asarray(Image.fromarray(QUARTERS).resize((28, 28)), float)
    for picture in pictures(kept):
        assert np.abs(picture - expected).mean() < 8


@pytest.mark.parametrize("by_opencv", [True, False])
def test_a_matrix_of_no_sense_turns_nothing(tmp_path: Path, by_opencv: bool, monkeypatch) -> None:
    path = write(tmp_path / "a.mp4", [QUARTERS] * 4)
    turned(path, (0, 0, 0, 0))
    monkeypatch.setattr(video, "_shown_rightly", lambda frame: by_opencv)
    expected = np.asarray(Image.fromarray(QUARTERS).resize((28, 28)), float)
    assert np.abs(pictures(video.stored(path, 28, 2))[0] - expected).mean() < 8


def test_a_packet_that_shows_nothing_is_no_loss(tmp_path: Path, monkeypatch) -> None:
    """Such as VP8's hidden reference frames, which PyAV's encoder does not write."""
    path = write(tmp_path / "a.mp4", numbered(20))
    found = replace(video.look(path), packets=40)
    monkeypatch.setattr(video, "look", lambda path: found)
    assert len(video._times(path)[0]) == 20
    emptied(path, 5)
    assert reason(path).startswith("damaged: ")


@pytest.mark.parametrize("size", [(81, 121), (33, 64), (1, 1), (17, 300)])
def test_odd_sizes_come_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [np.full((*size, 3), (200, 30, 30), np.uint8)] * 3
    kept = video.stored(write(tmp_path / "a.mkv", frames, "ffv1", form="bgr0"), 28, 2)
    assert (kept.height, kept.width) == size
    for picture in pictures(kept):
        assert np.abs(picture - (200, 30, 30)).max() <= 3


@pytest.mark.parametrize("form", ["gray", "gray10le", "gray16le"])
def test_grey_of_any_depth_is_grey_of_the_same_light(tmp_path: Path, form: str) -> None:
    frames = [pixels[..., 0] for pixels in numbered(8)]
    kept = video.stored(write(tmp_path / "a.mkv", frames, "ffv1", form=form), 28, 8)
    assert numbers(kept) == list(range(8))


def test_more_than_8_bits_are_scaled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mkv", [QUARTERS] * 3, "ffv1", form="yuv444p10le")
    expected = np.asarray(Image.fromarray(QUARTERS).resize((28, 28)), float)
    assert np.abs(pictures(video.stored(path, 28, 2))[0] - expected).mean() < 8


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, 32:, 3] = 255
    kept = pictures(
        video.stored(write(tmp_path / "a.mkv", [pixels] * 3, "ffv1", form="bgra"), 8, 2)
    )
    assert kept[0][:, 0].min() > 250
    assert kept[0][:, -1].max() < 5


def test_hdr_keeps_its_hues(tmp_path: Path) -> None:
    """OpenCV would paint the red and green quarters in other colours."""
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx265", 10, {"x265-params": "log-level=none"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p10le"
        coder = stream.codec_context
        coder.color_primaries, coder.color_trc, coder.colorspace = 9, 16, 9
        for k in range(4):
            frame = av.VideoFrame.from_ndarray(QUARTERS, format="rgb24")
            frame.pts = k
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert not video._times(path)[1]
    picture = pictures(video.stored(path, 28, 2))[0]
    assert (picture[4, 14].argmax(), picture[24, 4].argmax(), picture[24, 24].argmax()) == (0, 2, 1)


def lengthened_avi(content: bytearray) -> None:
    frames = content.index(b"avih") + 24
    length = content.index(b"strh") + 40
    for place in (frames, length):
        content[place : place + 4] = struct.pack("<I", 400)


def lengthened_mkv(content: bytearray) -> None:
    place = content.index(b"\x44\x89\x88") + 3
    content[place : place + 8] = struct.pack(">d", 40_000)


@pytest.mark.parametrize(
    ("name", "lengthened"),
    [("a.avi", lengthened_avi), ("a.mkv", lengthened_mkv)],
)
def test_a_wrong_length_is_no_defect_of_a_whole_file(tmp_path: Path, name: str, lengthened) -> None:
    path = write(tmp_path / name, numbered(40, noise=20))
    content = bytearray(path.read_bytes())
    lengthened(content)
    path.write_bytes(content)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert max(stream.frames, 10 * file.duration / av.time_base) > 300
    assert numbers(video.stored(path, 28, 2)) == [0, 39]


def test_frames_that_an_edit_hides_are_neither_shown_nor_missed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", numbered(40), "libx264", start=-20)
    assert numbers(video.stored(path, 28, 2)) == [20, 39]


def emptied(path: Path, number: int) -> None:
    """Overwrite a packet of the video by zeros."""
    with av.open(str(path)) as file:
        packet = [p for p in file.demux(video=0) if p.size][number]
        place, size = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[place : place + size] = bytes(size)
    path.write_bytes(content)


def test_of_an_edited_video_only_what_is_shown_can_be_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", numbered(40), "libx264", start=-17)
    with av.open(str(path)) as file:  # from the key frame before on
        assert sum(packet.is_discard for packet in file.demux(video=0)) == 5
    emptied(path, -1)
    assert len(video._times(path)[0]) == 22


CUT = [(n, c) for n, c in FORMATS if not n.endswith((".ts", ".mpg"))]


@pytest.mark.parametrize(("name", "codec"), CUT)
def test_a_clip_of_which_the_end_is_missing_is_refused(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write(tmp_path / name, numbered(40, noise=20), codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    said = reason(path)
    words, _, counts = said.partition(": ")
    readable = int(counts.split(" of 40 frames can be read")[0])
    assert words == "cut short"
    assert 5 <= readable <= 30


@pytest.mark.parametrize(("name", "codec"), CUT)
def test_a_clip_whose_second_half_is_empty_is_refused(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write(tmp_path / name, numbered(40, noise=20), codec)
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    assert reason(path).endswith("of 40 frames can be read")


def test_a_clip_that_lacks_a_few_frames_is_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", numbered(40, noise=20))
    content = path.read_bytes()
    path.write_bytes(content[: -len(content) // 20])
    kept = numbers(video.stored(path, 28, 4))
    assert kept[0] == 0
    assert 35 <= kept[-1] < 39


def test_damaged_frames_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", numbered(40, noise=20))
    emptied(path, 11)  # the last before a key frame
    times, by_opencv = video._times(path)
    assert not by_opencv
    assert 1.1 not in np.round(times, 3)
    assert numbers(video.stored(path, 28, 4))[-1] == 39


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.75])
def test_a_download_that_broke_off_is_cut_short(
    tmp_path: Path, movflags: str, share: float
) -> None:
    path = write(tmp_path / "a.mp4", numbered(40, noise=20), movflags=movflags)
    path.write_bytes(path.read_bytes()[: round(share * path.stat().st_size)])
    assert reason(path).startswith("cut short: ")


def test_a_box_of_more_than_4_gigabytes_is_cut_short_too(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"\0\0\0\1mdat" + (5 * 2**30).to_bytes(8, "big") + bytes(84))
    assert reason(path) == "cut short: 100 of 5,368,709,120 bytes or more are there"


def covered(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write an MP4 with the picture of a sleeve, named in the header before the video."""
    with av.open(str(path), "w") as file:
        cover = file.add_stream("png", 1)
        cover.disposition = Disposition.attached_pic
        cover.pix_fmt = "rgb24"
        stream = file.add_stream("mpeg4", 10, {"qmin": "2", "qmax": "3"})
        stream.pix_fmt = "yuv420p"
        for made in (cover, stream):
            made.width = made.height = 64
        for made, shown in ((cover, [np.zeros((64, 64, 3), np.uint8)]), (stream, frames)):
            for number, pixels in enumerate(shown):
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = number
                file.mux(made.encode(frame))
            file.mux(made.encode())
    content = path.read_bytes()
    start = content.index(b"moov") + 4
    boxes, place = {}, start
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        boxes[content[place + 4 : place + 8]] = content[place : place + length]
        place += length
    ordered = sorted(boxes, key=[b"mvhd", b"udta", b"trak"].index)
    path.write_bytes(content[:start] + b"".join(boxes[name] for name in ordered))


def test_the_picture_of_a_sleeve_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    covered(path, numbered(10))
    with av.open(str(path)) as file:
        assert [s.codec_context.name for s in file.streams.video] == ["png", "mpeg4"]
    assert numbers(video.stored(path, 28, 2)) == [0, 9]


def sound(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(8000))


def text(path: Path) -> None:
    path.write_text("A text is no video of its letters.\n" * 50)


def page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>404</body></html>")


def picture(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path, "PNG")


def photograph(path: Path) -> None:
    Image.new("RGB", (64, 64)).save(path, "JPEG")


def playlist(path: Path) -> None:
    other = write(path.with_name("other.mp4"), numbered(4))
    path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n")


def list_of_files(path: Path) -> None:
    write(path.with_name("other.mp4"), numbered(4))
    path.write_text("ffconcat version 1.0\nfile other.mp4\n")


def rubbish(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda path: path.touch(), "empty file"),
        (lambda path: None, "cannot be read: No such file or directory"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (sound, "no video frames: it holds sound alone"),
        (text, "not a video"),
        (page, "not a video"),
        (picture, "not a video"),
        (photograph, "not a video"),
        (playlist, "not a video"),
        (list_of_files, "not a video"),
        (rubbish, "not a video"),
        (
            lambda path: path.write_bytes(b"RIFF\x20\0\0\0AVI LIST" + bytes(24)),
            "damaged header: AVI",
        ),
        (lambda path: path.write_bytes(b"\0\0\0\x10ftypisom" + bytes(200)), "damaged header: MP4"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_reason(
    tmp_path: Path, made, expected: str
) -> None:
    path = tmp_path / "a.mp4"
    made(path)
    assert reason(path) == expected


def test_a_video_without_a_frame_has_none(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as file:
        stream = file.add_stream("mpeg4", 10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        file.start_encoding()
    assert reason(path) == "no video frames"


def test_a_video_of_too_many_pixels_or_frames_is_refused(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path / "a.mp4", numbered(20))
    monkeypatch.setattr("src.containers.MOST_FRAMES", 19)
    assert reason(path) == "too long: over 19 frames"
    monkeypatch.undo()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4095)
    assert reason(path) == "more pixels than allowed: over 4,095"


@pytest.mark.parametrize("name", ["http:a.mp4", "%03d.mp4", "a b'ü.mp4", "no suffix"])
def test_any_name_is_a_file(tmp_path: Path, name: str, monkeypatch) -> None:
    write(tmp_path / "a.mp4", numbered(8)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert numbers(video.stored(Path(name), 28, 8)) == list(range(8))


def test_the_quality_is_that_of_the_middle_at_its_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    frames = [np.zeros((120, 160, 3), np.uint8) for _ in range(9)]
    frames[4] = rng.integers(0, 255, (15, 20, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    kept = video.stored(write(tmp_path / "a.mkv", frames, "ffv1", form="bgr0"), 28, 4)
    assert kept.quality == measure(Image.fromarray(frames[4]))


def bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


def moving(path: Path, motion: str, seed: int = 1, size: int = 96) -> Path:
    scene = clips.Scene("red", "circle", motion)
    clips._encode(path, clips.draw(random.Random(seed), scene, size, 24))
    return path


def test_the_fingerprint_depends_on_the_motion_and_not_on_the_frames_kept(tmp_path: Path) -> None:
    left = video.stored(moving(tmp_path / "left.mp4", "left"), 56, 8)
    right = video.stored(moving(tmp_path / "right.mp4", "right"), 56, 8)
    again = video.stored(tmp_path / "left.mp4", 56, 4)
    assert len(left.fingerprint) == len(left.mirrored) == 32
    assert left.fingerprint == again.fingerprint
    assert left.quality == again.quality
    assert bits(left.fingerprint, right.fingerprint) > 40
    # Four frames, in the order of reading.
    mosaic = Image.new("RGB", (112, 112))
    for place, frame in enumerate(again.frames):
        picture = Image.open(io.BytesIO(frame))
        mosaic.paste(picture, (place % 2 * 56, place // 2 * 56))
    assert fingerprint(mosaic) == left.fingerprint


def test_the_mirrored_fingerprint_is_that_of_the_mirrored_clip(tmp_path: Path) -> None:
    one = write(tmp_path / "a.mkv", lively(), "ffv1", form="bgr0")
    other = write(tmp_path / "b.mkv", [f[:, ::-1] for f in lively()], "ffv1", form="bgr0")
    one, other = (video.stored(path, 56, 4) for path in (one, other))
    assert bits(one.mirrored, other.fingerprint) <= 4
    assert bits(one.fingerprint, other.fingerprint) > 40


def lively() -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    noise = [Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)) for _ in range(8)]
    return [np.asarray(ImageOps.scale(picture, 10)) for picture in noise]


def test_a_copy_in_another_format_has_nearly_the_same_fingerprint(tmp_path: Path) -> None:
    one = write(tmp_path / "a.mkv", lively(), "ffv1", form="bgr0")
    other = write(tmp_path / "b.mp4", lively(), "libx264")
    one, other = (video.stored(path, 56, 8) for path in (one, other))
    assert bits(one.fingerprint, other.fingerprint) <= 12


def test_drawn_clips_are_decoded_in_workers_and_none_is_a_copy_of_another(tmp_path: Path) -> None:
    clips.write(Drawn(drawing="clips", train=50, test=10, size=96), tmp_path, seed=1)
    files = sorted(tmp_path.rglob("*.mp4"))
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(files[0].read_bytes()[:3000])
    found = list(decoded([*files, damaged], functools.partial(video.stored, side=56, frames=8)))
    assert found.pop().startswith("cut short: ")
    assert len({kept.fingerprint for kept in found}) == 60
    assert not {kept.fingerprint for kept in found} & {kept.mirrored for kept in found}
    assert {(kept.width, kept.height, len(kept.frames)) for kept in found} == {(96, 96, 8)}


def test_memory_stays_flat_however_long_the_clip_is(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from src import video
video.stored(Path(sys.argv[1]), 28, 8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

    def kilobytes(count: int) -> int:
        frame = np.zeros((720, 1280, 3), np.uint8)
        path = write(tmp_path / f"{count}.mp4", [frame] * count)
        command = [sys.executable, "-c", code, path]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return int(run.stdout)

    # 240 frames more are 660 MB in RGB.
    assert kilobytes(260) - kilobytes(20) < 60_000


GOOD = {
    "av1_video.mkv": (640, 360, 125),
    "bigbuckbunny.mp4": (1280, 720, 132),
    "bikes.mp4": (640, 272, 250),
    "bt601_limited_range.mp4": (320, 240, 60),
    "carphone_distorted.mp4": (176, 144, 120),
    "carphone_pristine.mp4": (176, 144, 120),
    "h265_video.mp4": (128, 128, 10),
    "nasa_13013.mp4": (320, 180, 325),
    "testsrc2_mpeg4.avi": (1280, 720, 30),
    "testsrc2_vp8.webm": (1280, 720, 30),
    "testsrc2_vp9.webm": (1280, 720, 30),
}
# What is in each, by PyAV and by eye: width, height and frames, or why it is not used.
ODD = {
    "amr_nb_1f.3gp": "no video frames: it holds sound alone",
    "bipbop_cbcs_video_init.mp4": "no video frames",  # an initialisation segment alone
    "bipbop_nonfragment_header.mp4": "cut short: 0 of 297 frames can be read",  # no mdat
    "chunk_out_of_range.mp4": "damaged header: MP4",
    # A box of more than a gigabyte in 56 bytes.
    "clusterfuzz-testcase-minimized-mp4-6093954524250112": (
        "cut short: 56 of 1,124,100,509 bytes or more are there"
    ),
    "h264_white_frame_sar_16_9.mp4": (640, 480, 1),
    "invalid_userdata.mp4": "cut short: 0 of 5,544 frames can be read",  # no mdat
    "minimal.mp4": (320, 240, 1),
    "nasa_13013_hdr.mp4": (320, 180, 325),
    "nasa_13013_rotated.mp4": (270, 480, 17),
    # Without its first key frame; what follows is grey, then smeared.
    "no_timescale.mp4": "damaged: 142 of 182 frames can be read",
    "short-cenc.mp4": "encrypted",
    "sine_mono_mp3.swf": "no video frames: it holds sound alone",
    "test_case_1185230.mp4": "cut short: 0 of 10 frames can be read",  # no mdat
    "testsrc2_mpeg4.mp4": (64, 64, 1),
    "testsrc2_odd_height_and_width_mpeg2.mp4": (121, 81, 10),
    "tiny_av1.mp4": (64, 64, 1),
    "unordered.mov": (50, 50, 4),
    "video_90.mov": (320, 568, 3),
    "zero_empty_stsc.mp4": "cut short: 0 of 1,040 frames can be read",  # no mdat
}
FILES = {f"videos/{name}": outcome for name, outcome in GOOD.items()} | {
    f"bad/videos/videos_{name}": outcome for name, outcome in ODD.items()
}


@real
@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_decoded_or_refused_with_a_true_reason(name: str) -> None:
    outcome = FILES[name]
    if isinstance(outcome, str):
        assert reason(REAL / name) == outcome
        return
    kept = video.stored(REAL / name, 56, 8)
    assert (kept.width, kept.height, len(video._times(REAL / name)[0])) == outcome
    assert len(kept.frames) == 8


@real
def test_every_real_file_is_in_the_table() -> None:
    found = {p.relative_to(REAL).as_posix() for p in REAL.glob("videos/*")}
    found |= {p.relative_to(REAL).as_posix() for p in REAL.glob("bad/videos/*")}
    assert found == set(FILES)


@real
def test_real_videos_keep_their_hues() -> None:
    blue = pictures(video.stored(REAL / "videos/h265_video.mp4", 56, 8))[0]
    assert np.abs(blue[0, 0] - (0, 0, 255)).max() < 12
    one, other = (
        pictures(video.stored(REAL / name, 56, 8))
        for name in ("videos/nasa_13013.mp4", "bad/videos/videos_nasa_13013_hdr.mp4")
    )
    for a, b in zip(one, other, strict=True):
        assert np.abs(a - b).mean() < 6
