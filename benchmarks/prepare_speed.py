"""Speed and memory of preparing pictures: `python -m benchmarks.prepare_speed`.

The usual script goes over the files once for each thing that it wants to know, on one core: whether
they decode, how bright and sharp they are and whether they show a face, how they look when they are
resized, and which are alike. `prepare` decodes each once, on all cores. Both use the same
measurements, the same size and the same hashes. The memory of `prepare` is that of the process that
splits and writes, and that of the largest of its workers.
"""

import io
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import imagehash
import joblib
import numpy as np
import typer
from joblib.externals.loky import get_reusable_executor
from PIL import Image, ImageOps
from tqdm import tqdm

from benchmarks.alone import alone, ratio
from src import config, quality
from src.files import read_json, write_json
from src.prepare import prepare

SIDE = 224  # of a stored picture, in pixels
LABELS = ["one", "other"]
ALLOWED = 1.5  # times the memory of the fewest pictures

app = typer.Typer(add_completion=False)


@app.command()
def speed(pictures: int = 400, repeats: int = 5) -> None:
    """Print pictures a second of both, and the ratio."""
    with tempfile.TemporaryDirectory(prefix="prepare-speed-") as scratch:
        raw = Path(scratch, "raw")
        write(raw, pictures, (640, 480))
        spent: dict[str, list[float]] = {"prepare": [], "script": []}
        for number in range(repeats):
            out = Path(scratch, str(number))
            spent["prepare"].append(alone(ours, raw, out / "ours", SIDE)[0])
            spent["script"].append(alone(script, raw, out / "script"))
    cores = joblib.cpu_count()
    print(f"{pictures} JPEG pictures of 640 x 480 pixels, {cores} cores, {repeats} runs each\n")
    print("| | pictures a second | ratio (spread) |\n| --- | --- | --- |")
    for name, seconds in spent.items():
        shown = "1" if name == "prepare" else ratio(*spent.values())
        print(f"| {name} | {pictures / statistics.median(seconds):.0f} | {shown} |")


@app.command()
def memory(sizes: Annotated[list[int] | None, typer.Argument()] = None) -> None:
    """Print the peak of each number of pictures, 10,000 and 100,000 if none is given."""
    sizes = sorted(sizes or [10_000, 100_000])
    peaks = {}
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="prepare-memory-") as scratch:
            alone(write, Path(scratch, "raw"), count, (64, 48))
            seconds, own, worker = alone(ours, Path(scratch, "raw"), Path(scratch, "out"), 56)
        peaks[count] = own + worker
        print(f"{count:>9,} pictures: {own:.0f} + {worker:.0f} MiB at the peak, {seconds:.0f} s")
    times = peaks[sizes[-1]] / peaks[sizes[0]]
    print(f"{sizes[-1]:,} pictures take {times:.2f} times the memory of {sizes[0]:,}")
    if times > ALLOWED:
        sys.exit(f"error: that is more than {ALLOWED} times")


def write(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Write folders of two classes with pictures of coloured clouds, no two alike."""
    rng = np.random.default_rng(1)
    for label in LABELS:
        (folder / label).mkdir(parents=True)
    for number in tqdm(range(count), desc="draw", unit="file"):
        cloud = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
        file = folder / LABELS[number % 2] / f"{number:06}.jpg"
        cloud.resize(size, Image.Resampling.BICUBIC).save(file, quality=90)
    write_json(folder / "_source.json", {"source": "folder"})


def ours(raw: Path, out: Path, side: int) -> tuple[float, float, float]:
    """Seconds of `prepare`, and the peaks of this process and of its largest worker, in MiB."""
    known = config.load().data["fer"]
    data = known.model_copy(update={"labels": LABELS, "image_size": side})
    out.mkdir(parents=True)
    start = time.perf_counter()
    prepare(data, 1, raw, out)
    spent = time.perf_counter() - start
    kept = sum(split["n"] for split in read_json(out / "summary.json")["splits"].values())
    if kept != (files := len(list(raw.rglob("*.jpg")))):
        sys.exit(f"error: {kept} of {files} pictures were kept")
    # Only children that have ended are counted.
    get_reusable_executor().shutdown(wait=True)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return spent, *(resource.getrusage(one).ru_maxrss / 2**10 for one in who)


def script(raw: Path, out: Path) -> float:
    """Seconds of passes that open each file anew."""
    out.mkdir(parents=True)
    files = sorted(raw.rglob("*.jpg"))
    start = time.perf_counter()
    for file in files:
        Image.open(file).load()
    for file in files:
        quality.measure(_upright(file))
    for file in files:
        small = _upright(file).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.save(out / f"{file.stem}.png", compress_level=3)
    hashes = []
    for file in files:
        with Image.open(out / f"{file.stem}.png") as small:
            hashes += [imagehash.phash(seen, 16).hash for seen in (small, ImageOps.mirror(small))]
    bits = np.array(hashes).reshape(len(files), 2, -1).astype(np.float32)
    own, mirrored = bits[:, 0], bits[:, 1]
    for other in (own, mirrored):
        (own @ (1 - other).T + (1 - own) @ other.T <= 20).nonzero()
    return time.perf_counter() - start


def _upright(file: Path) -> Image.Image:
    return ImageOps.exif_transpose(Image.open(io.BytesIO(file.read_bytes()))).convert("RGB")


if __name__ == "__main__":
    app()
