"""The records of a split, in Parquet files that Hugging Face `datasets` reads as they are."""

import atexit
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image, List, Value

from src.files import read_json

SPLITS = ("train", "validation", "test")
FEATURES = Features(
    {
        "id": Value("string"),
        "image": Image(),  # of a picture
        "video": List(Image()),  # the frames of a video, which has no picture
        "question": Value("string"),
        "answers": List(Value("string")),
        "kind": Value("string"),
        "label": Value("string"),
        "group": Value("string"),
        "subgroup": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "brightness": Value("float32"),
        "contrast": Value("float32"),
        "sharpness": Value("float32"),
        "faces": Value("int32"),
        "regions": List({"name": Value("string"), "box": List(Value("float32"), length=4)}),
    }
)
ROW_GROUP = 256  # pictures and frames
MEDIA = ["image", "video"]  # the columns that decode when a row is read


@dataclass(frozen=True)
class Region:
    """A named part of a picture; the box is x0, y0, x1, y1 in shares of its sides."""

    name: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Raw:
    """An example as a reader finds it.

    `id` is the path below data/raw/<data>, with `#` and a number behind it where a picture is asked
    about more than once.
    """

    id: str
    path: Path
    label: str | None = None
    question: str | None = None
    answers: tuple[str, ...] = ()  # references, the one to be learnt first
    kind: str | None = None  # of the question, such as color or count
    split: str | None = None  # one of SPLITS where the publisher made it
    group: str | None = None  # what must not lie on two sides of a split, such as a person
    subgroup: str | None = None  # what results are audited by, such as an age or a product type
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True)
class Rejected:
    """A file or row that is not used; the reason's kind is what stands before its first colon."""

    file: str
    reason: str


@dataclass(frozen=True)
class Record:
    """A row of a split: a picture, or a video of several frames."""

    id: str
    frames: tuple[bytes, ...]  # PNG; one of a picture
    group: str
    width: int  # of the original in pixels, upright
    height: int
    brightness: float  # of the original: see src/quality.py
    contrast: float
    sharpness: float
    faces: int
    question: str | None = None
    answers: tuple[str, ...] = ()
    kind: str | None = None
    label: str | None = None
    subgroup: str | None = None
    regions: tuple[Region, ...] = field(default=())


@dataclass(frozen=True)
class Generated:
    """What a model wrote, one entry a record."""

    texts: list[str]
    likelihoods: np.ndarray  # (records,) log-probabilities in nats, end token included
    tokens: np.ndarray  # (records,) their number, end token included
    ended: np.ndarray  # (records,) booleans: written to the end, not cut off at max_new_tokens
    scores: np.ndarray | None = None  # (records, choices) log-likelihoods of the choices, if any


class SplitWriter:
    """Writes records to a Parquet file, a few at a time; the same records give the same bytes."""

    def __init__(self, path: Path) -> None:
        # Statistics would copy the least and the greatest picture of each row group to the footer.
        self._file = pq.ParquetWriter(path, FEATURES.arrow_schema, write_statistics=False)
        self._rows: list[dict[str, Any]] = []
        self._frames = 0

    def write(self, record: Record) -> None:
        """Add a row; it reaches the disk with its row group."""
        row = asdict(record)
        frames = [{"bytes": frame, "path": None} for frame in row.pop("frames")]
        image, video = (frames[0], None) if len(frames) == 1 else (None, frames)
        self._rows.append(row | {"image": image, "video": video})
        self._frames += len(frames)
        if self._frames >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, FEATURES.arrow_schema))
        self._rows.clear()
        self._frames = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rows and error is None:
            self._flush()
        self._file.close()


def read_labels(data: str) -> list[str] | None:
    """The classes of a prepared data set, in the order of its probabilities; None without any."""
    return read_json(Path("data/prepared") / data / "summary.json")["labels"]


def read_split(path: Path, media: bool = True) -> Dataset:
    """The records of a split, mapped from the disk; pictures decode when a row is read.

    Without `media`, MEDIA are left out. Parquet holds a picture once that many questions are about,
    and what is mapped once for each of them.

    `datasets` maps Arrow files, not Parquet. It would keep its Arrow copies of every version of
    every split for good; the copy made here lasts as long as this process.
    """
    folder = Path(tempfile.mkdtemp(prefix="split-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / f"{path.stem}.arrow"
    # pre_buffer would hold the whole file in memory.
    with pq.ParquetFile(path, pre_buffer=False) as parquet:
        stored = parquet.schema_arrow
        read = [field for field in stored if media or field.name not in MEDIA]
        schema = pa.schema(read, stored.metadata)
        with pa.ipc.new_stream(copy, schema) as stream:
            for batch in parquet.iter_batches(ROW_GROUP, columns=schema.names):
                stream.write_batch(batch)
    return Dataset.from_file(str(copy))
