"""What a video file says and holds, without a frame of it being decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream
from PIL import Image

from src.media import BadMediaError

MOST_FRAMES = 216_000  # an hour of 60 a second
# What FFmpeg may take a file for. Without, a text is a video of its letters, and a playlist opens
# the files that it names. Sound alone is among them, so that its reason can be given.
FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,asf,ogg,h264,hevc,m4v,"
    "mjpeg,nut,mxf,dv,gif,swf,mp3,aac,ac3,amr,amrnb,flac,wav,aiff,au"
)
# How a video begins, from its fourth byte or from its first.
BOXES = {b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx"}
STARTS = {
    "Matroska": b"\x1aE\xdf\xa3",
    "AVI": b"RIFF",
    "FLV": b"FLV\1",
    "MPEG": b"\0\0\1\xba",
}
SEGMENT = b"\x18S\x80g"  # what holds everything in a Matroska file


@dataclass(frozen=True)
class Found:
    """What a file holds, without a frame of it being decoded."""

    packets: int  # of the video that are shown
    missing: int  # frames that it should hold and does not
    encrypted: bool
    first: bool  # no picture lies before the video, which OpenCV would read instead


def look(path: Path) -> Found:
    """What the container says, and what of it is there.

    Raises:
        BadMediaError: it cannot be opened, holds no video, or more than is allowed.
    """
    try:
        size, promised, name = _signature(path)
    except OSError as error:
        raise BadMediaError("cannot be read", error.strerror) from None
    if not size:
        raise BadMediaError("empty file")
    try:
        with opened(path) as file:
            found = _examine(file, size, promised)
            fragments = name == "MP4" and not video_stream(file).frames
    except av.FFmpegError:
        if not name:
            raise BadMediaError("not a video") from None
        fragments, found = True, None
    # How much more there was, nothing says.
    if fragments and size < promised:
        raise BadMediaError("cut short", f"{size:,} of {promised:,} bytes or more are there")
    if found is None:
        raise BadMediaError("damaged header", name)
    return found


def _signature(path: Path) -> tuple[int, int, str]:
    """The bytes of a file, those that its container says it has (0: unsaid), and its kind."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[4:8] in BOXES:
            end = 0
            while end < size:
                file.seek(end)
                box = file.read(16)
                length = int.from_bytes(box[:4], "big")
                if length == 1:
                    length = int.from_bytes(box[8:], "big")
                if box[4:8] not in BOXES or length < 8:
                    break
                end += length
            return size, end, "MP4"
    name = next((name for name, start in STARTS.items() if head.startswith(start)), "")
    if name == "AVI":
        return size, 8 + int.from_bytes(head[4:8], "little"), name
    place = head.find(SEGMENT)
    # 8 bytes of which the first says so; all bits set where the length is not known.
    if name == "Matroska" and place > 0 and head[place + 4 : place + 5] == b"\1":
        length = int.from_bytes(head[place + 5 : place + 12], "big")
        return size, 0 if length == 2**56 - 1 else place + 12 + length, name
    return size, 0, name


def opened(path: Path | str, **options: str) -> InputContainer:
    """Open a file for reading, of the formats of a video or of sound."""
    options["format_whitelist"] = FORMATS
    # Absolute: a name with a colon would be taken for an address.
    name = str(Path(path).absolute())
    return av.open(name, options=options, metadata_errors="ignore")


def video_stream(file: InputContainer) -> VideoStream:
    """The video, not the picture of a record's sleeve; decoded by one thread.

    joblib has one process on each core already.
    """
    for stream in file.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            if stream.codec_context is None:
                raise BadMediaError("cannot be decoded", "a codec that is not known")
            stream.codec_context.thread_count = 1
            # What the frames say may be more than what the container does.
            stream.codec_context.options = {"max_pixels": str(Image.MAX_IMAGE_PIXELS or 2**31 - 1)}
            return stream
    raise BadMediaError("no video frames", "it holds sound alone" if file.streams.audio else "")


def _examine(file: InputContainer, size: int, promised: int) -> Found:
    """Go through the packets of an opened file of `size` bytes, decoding none."""
    stream = video_stream(file)
    coder = stream.codec_context
    limit = Image.MAX_IMAGE_PIXELS
    if limit and coder.width * coder.height > limit:
        raise BadMediaError("more pixels than allowed", f"over {limit:,}")
    spans, count, hidden, encrypted, torn = [], 0, 0, False, promised > size
    try:
        for packet in file.demux():
            if packet.pos is not None and packet.pos >= 0 and packet.size:
                spans.append((packet.pos, packet.pos + packet.size))
            if packet.stream_index == stream.index and packet.size:
                count += 1
                hidden += packet.is_discard
                torn |= packet.is_corrupt
                encrypted |= packet.has_sidedata("encryption_info")
            if len(spans) > 8 * MOST_FRAMES or count > MOST_FRAMES:
                raise BadMediaError("too long", f"over {MOST_FRAMES:,} frames")
    except av.FFmpegError:
        torn = True
    # An index takes some bytes a packet.
    torn |= _hole(spans, size) > 64 * len(spans) + 1024
    first = stream.index == file.streams.video[0].index
    missing = _missing(file, stream, count, torn)
    return Found(count - hidden, missing, encrypted, first)


def _hole(spans: Sequence[tuple[int, int]], size: int) -> int:
    """Bytes of the longest stretch behind the first packet that no packet comes from."""
    ordered = sorted(spans)
    starts = [start for start, _ in ordered] + [size]
    return max((b - a for (_, a), b in zip(ordered, starts[1:], strict=True)), default=0)


def _missing(file: InputContainer, stream: VideoStream, packets: int, torn: bool) -> int:
    """Frames that the file should hold and does not.

    The index of an MP4 counts what must be there. Elsewhere a count or a duration is what some
    program wrote, right or wrong: it is believed where the file also shows that some of it is lost.
    """
    declared = stream.frames
    if declared and "mp4" in file.format.name:
        if declared > packets:
            # What an edit of the video leaves out is there.
            with opened(file.name, ignore_editlist="1") as whole:
                packets = sum(packet.size > 0 for packet in whole.demux(video_stream(whole)))
        return max(0, declared - packets)
    if not torn:
        return 0
    seconds = stream.duration * stream.time_base if stream.duration else 0
    seconds = seconds or (file.duration or 0) / av.time_base
    rate = stream.average_rate or stream.guessed_rate or 0
    return max(0, (declared or round(seconds * rate)) - packets)
