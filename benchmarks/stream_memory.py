"""Peak memory of streaming e-SNLI-VE by the rows: `python -m benchmarks.stream_memory`.

A Hub on the loopback serves a synthetic data set in Parquet files with tiny pictures. The fetch of
src/sources/esnlive.py streams it, each time in a process of its own, whose peak is measured.
"""

import io
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import typer
from datasets import ClassLabel, Features, Image, Value
from PIL import Image as Picture

from benchmarks.alone import alone
from src.schema import Esnlive
from src.sources import esnlive
from tests.servers.hub_server import serve

REPO, COMMIT = "owner/pairs", "0123456789abcdef0123456789abcdef01234567"
FEATURES = Features(
    {
        "image": Image(),
        "hypothesis": Value("string"),
        "gold_label": ClassLabel(names=["entailment", "neutral", "contradiction"]),
        "explanation": Value("string"),
        "Flickr30kID": Value("string"),
        "pairID": Value("string"),
    }
)
SHARD, ROW_GROUP = 10_000, 100  # rows
PAIRS = 13  # of a picture, as in e-SNLI-VE's training split
SIDE = 16  # of a picture, in pixels
ALLOWED = 1.1  # times the memory of the fewest rows


def main(sizes: Annotated[list[int] | None, typer.Argument()] = None, repeats: int = 3) -> None:
    """Print the peak of each size, 10,000 and 100,000 rows if none is given, and the ratio."""
    sizes = sorted(sizes or [10_000, 100_000])
    # The client of the Hub reads these when it is imported, which each process does anew.
    os.environ.pop("HF_HUB_OFFLINE", None)
    os.environ["NO_PROXY"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="stream-memory-") as scratch:
        top = Path(scratch)
        alone(write, top / "repo", sizes[-1])
        peaks: dict[int, float] = {}
        with serve(top / "repo", REPO, COMMIT, kind="datasets") as hub:
            os.environ |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(top / "home")}
            for rows in sizes:
                runs = [alone(measure, top, rows) for _ in range(repeats)]
                peaks[rows] = max(peak for peak, _ in runs)
                listed = ", ".join(f"{peak:.0f}" for peak, _ in runs)
                seconds = statistics.median(spent for _, spent in runs)
                print(f"{rows:>9,} rows: {listed} MiB at the peak, {seconds:.0f} s of computing")
    ratio = peaks[sizes[-1]] / peaks[sizes[0]]
    print(f"{sizes[-1]:,} rows take {ratio:.2f} times the memory of {sizes[0]:,}")
    if ratio > ALLOWED:
        sys.exit(f"error: that is more than {ALLOWED} times")


def write(repo: Path, rows: int) -> None:
    """Write so many rows in Parquet files, in groups as small as the Hub's of pictures."""
    (repo / "data").mkdir(parents=True)
    shards = -(-rows // SHARD)
    for shard in range(shards):
        file = repo / f"data/train-{shard:05}-of-{shards:05}.parquet"
        with pq.ParquetWriter(file, FEATURES.arrow_schema) as parquet:
            for start in range(shard * SHARD, min(rows, (shard + 1) * SHARD), ROW_GROUP):
                group = [_row(number) for number in range(start, min(rows, start + ROW_GROUP))]
                parquet.write_table(pa.Table.from_pylist(group, FEATURES.arrow_schema))


def measure(top: Path, rows: int) -> tuple[float, float]:
    """Stream so many rows; returns this process's peak in MiB, and its seconds of computing."""
    began = time.process_time()
    with tempfile.TemporaryDirectory(dir=top) as folder:
        source = Esnlive(dataset=REPO, revision=COMMIT, rows=rows)
        counted = esnlive.fetch(source, Path(folder), seed=0)["rows"]
    if counted != {"train": rows}:
        sys.exit(f"error: {counted} rows came instead of {rows}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return peak, time.process_time() - began


def _row(number: int) -> dict[str, object]:
    picture, pair = divmod(number, PAIRS)
    buffer = io.BytesIO()
    colour = (picture % 256, picture // 256 % 256, picture // 256**2)
    Picture.new("RGB", (SIDE, SIDE), colour).save(buffer, "JPEG")
    return {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "hypothesis": f"Somebody does the thing number {number} in the picture.",
        "gold_label": pair % 3,
        "explanation": f"One sees in the picture that the thing number {number} is done.",
        "Flickr30kID": f"{picture}.jpg",
        "pairID": f"{picture}.jpg#{pair}",
    }


if __name__ == "__main__":
    typer.run(main)
