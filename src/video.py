"""Videos as they come, checked: frames at equal intervals, upright and in 8-bit RGB.

PyAV looks at each file and counts the frames that can be read, because OpenCV stops silently in a
broken one. OpenCV decodes what is whole, PyAV the rest and what OpenCV shows wrongly. What a
pixel's sides are makes no difference to a frame that is squashed. HDR is not mapped to the range
of a screen, so that it looks pale; a flip in a file's matrix is not followed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from PIL import Image, ImageOps

from src.containers import MOST_FRAMES, look, opened, video_stream
from src.media import BadMediaError, Stored, fingerprint, png
from src.quality import measure

READABLE = 0.9  # least share of its frames that a clip is used with
HDR = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
MOSAIC = 2  # frames on a side of the mosaic that the fingerprint is taken of


def stored(path: Path, side: int, frames: int) -> Stored:
    """Decode a file and squash `frames` of its frames to `side` by `side` pixels.

    They lie at equal intervals, as `equal` says; a clip of fewer has each repeated about as often.
    The quality is that of the frame in the middle. The fingerprint is that of four frames at equal
    intervals in a mosaic, so that it depends on the motion, and not on `frames`.

    Raises:
        BadMediaError: no video, without frames, encrypted, empty, damaged, cut short, too long, or
            of more pixels than Pillow's limit.
    """
    with _reasons():
        times, plain = _times(path)
        picks, corners = equal(times, frames), equal(times, MOSAIC**2)
        middle = equal(times, 3)[1]
        wanted = {*picks, *corners, middle}
        small: dict[int, Image.Image] = {}
        for read in (_opencv, _pyav) if plain else (_pyav,):
            for number, picture in read(path, wanted - small.keys()):
                if number == middle:
                    (width, height), quality = picture.size, measure(picture)
                small[number] = picture.resize((side, side), Image.Resampling.LANCZOS)
        kept = {number: png(small[number]) for number in set(picks)}
        four = [small[number] for number in corners]
        mirrored = fingerprint(_mosaic([ImageOps.mirror(picture) for picture in four]))
        shown = tuple(kept[number] for number in picks)
        return Stored(shown, width, height, fingerprint(_mosaic(four)), mirrored, quality)


def equal(times: Sequence[float], count: int) -> list[int]:
    """The numbers of `count` frames at equal intervals, first and last among them.

    Of two frames as near to a time, the earlier. Intervals are counted in frames where times do
    not rise, or are so uneven that most frames would come out as copies of a few.
    """
    numbers = np.arange(len(times))
    for clock in (np.asarray(times, float), numbers.astype(float)):
        # Nor does one that is not a number.
        if not (np.diff(clock) > 0).all():
            continue
        wanted = np.linspace(clock[0], clock[-1], count)
        # Rounded, or which of two is nearer would be a matter of the last bit.
        picks = np.rint(np.round(np.interp(wanted, clock, numbers) - 1e-4, 6)).astype(int)
        if len(set(picks.tolist())) > min(count, len(times)) / 2:
            return picks.tolist()
    return picks.tolist()


def _mosaic(frames: Sequence[Image.Image]) -> Image.Image:
    side = frames[0].width
    whole = Image.new("RGB", (MOSAIC * side, MOSAIC * side))
    for place, frame in enumerate(frames):
        whole.paste(frame, (place % MOSAIC * side, place // MOSAIC * side))
    return whole


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever a decoder raises, as a reason."""
    try:
        yield
    except (BadMediaError, KeyboardInterrupt):
        raise
    except MemoryError:
        raise BadMediaError("cannot be decoded", "it needs more memory than there is") from None
    except Exception as error:
        words = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise BadMediaError("cannot be decoded", words.partition("\n")[0]) from None


def _times(path: Path) -> tuple[list[float], bool]:
    """When each frame that can be read is shown, in seconds, and whether OpenCV may read them.

    A time that the file does not say is not a number.
    """
    found, times, damaged = look(path), [], False
    plain = found.first
    for frame in _decoded(path):
        if frame is None:
            damaged = True
        else:
            plain = plain and _shown_rightly(frame)
            times.append(np.nan if frame.time is None else frame.time)
        if len(times) > MOST_FRAMES:
            raise BadMediaError("too long", f"over {MOST_FRAMES:,} frames")
    if not times and found.encrypted:
        raise BadMediaError("encrypted")
    # Where none is damaged, a packet without a frame is what some codecs have.
    lost = max(0, found.packets - len(times)) if damaged or not times else 0
    expected = len(times) + lost + found.missing
    if not expected:
        raise BadMediaError("no video frames")
    if len(times) < READABLE * expected:
        kind = "cut short" if found.missing >= lost else "damaged"
        raise BadMediaError(kind, f"{len(times):,} of {expected:,} frames can be read")
    return times, plain and not damaged


def _shown_rightly(frame: VideoFrame) -> bool:
    """Whether OpenCV does: it loses transparency, and paints HDR in loud colours."""
    return frame.color_trc not in HDR and not any(c.is_alpha for c in frame.format.components)


def _decoded(path: Path) -> Iterator[VideoFrame | None]:
    """Every frame, and None for each that is damaged and each packet that cannot be decoded."""
    with opened(path) as file:
        packets = file.demux(video_stream(file))
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                return
            if packet is None:
                return
            try:
                for frame in packet.decode():
                    yield None if frame.is_corrupt else frame
            except av.FFmpegError:
                if packet.size:
                    yield None


def _opencv(path: Path, wanted: set[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames of these numbers, upright: OpenCV turns them."""
    # joblib has one process on each core already.
    cv2.setNumThreads(1)
    one_thread = [cv2.CAP_PROP_N_THREADS, 1]
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG, one_thread)
    for number in range(max(wanted) + 1):
        if not capture.grab():
            return
        if number in wanted:
            yield number, Image.fromarray(cv2.cvtColor(capture.retrieve()[1], cv2.COLOR_BGR2RGB))


def _pyav(path: Path, wanted: set[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames of these numbers, turned upright, transparency laid on white."""
    last = max(wanted, default=-1)
    readable = (frame for frame in _decoded(path) if frame is not None)
    for number, frame in zip(range(last + 1), readable, strict=False):
        if number in wanted:
            picture = Image.fromarray(frame.to_ndarray(format="rgba"))
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture).convert("RGB")
            # A broken matrix gives an angle of no sense.
            turns = frame.rotation // 90 if frame.rotation % 90 == 0 else 0
            yield number, Image.fromarray(np.rot90(np.asarray(picture), turns))
