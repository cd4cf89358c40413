"""Everything that `full` brings from elsewhere, small, under its real names and in its layouts.

Models have the architectures of the real ones and random weights; data are drawn.
"""

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from src import config
from src.drawing import clips, faces, fer, products, scenes
from src.schema import Base, Drawn, HubBase, Params
from tests.conftest import ROOT
from tests.servers import kaggle_server
from tests.servers.bucket_server import BucketServer
from tests.servers.hub_server import Hub, Repository, running
from tests.servers.kaggle_server import KaggleServer
from tests.servers.proxy_server import ProxyServer

NEWEST = "0123456789abcdef0123456789abcdef01234567"  # the commit of what params.yaml pins to none
SIDES = {
    "llava": 192
}  # of the pictures that a base reads, where not 224; 576 tokens as in the real
SMALL = {"layers": 2, "hidden": 64, "heads": 2}


@dataclass
class World:
    """A Hub, a Kaggle, a bucket, and a proxy in the way to everywhere else."""

    hub: Hub
    kaggle: KaggleServer
    bucket: BucketServer
    elsewhere: ProxyServer

    @property
    def env(self) -> dict[str, str]:
        """What leads the clients here; no more than that tells them from those of a user.

        Kaggle's knows no variable for its endpoint, and is led by `site`.
        """
        return {
            "HF_ENDPOINT": self.hub.url,
            "KAGGLE_TEST_SERVER": self.kaggle.url,
            "PYTHONPATH": str(Path(kaggle_server.__file__).parent / "site"),
            "HTTP_PROXY": self.elsewhere.url,
            "HTTPS_PROXY": self.elsewhere.url,
            "NO_PROXY": "127.0.0.1,localhost",
        }

    @property
    def overrides(self) -> list[str]:
        """The addresses and sizes of the bucket, which stand in params.yaml."""
        source = config.at_scale(ROOT / "params.yaml", "full").data["abo"].source.abo
        return [f"data.abo.full.abo.url={self.bucket.url}"] + [
            f"data.abo.full.abo.{key}.size={len(self.bucket.objects[getattr(source, key).path])}"
            for key in ("listings", "images")
        ]


@contextmanager
def running_world(folder: Path) -> Iterator[World]:
    """A world for as long as the block lasts; its files lie below `folder`."""
    full = config.at_scale(ROOT / "params.yaml", "full")
    tiny = config.at_scale(ROOT / "params.yaml", "tiny")
    with ExitStack() as stack:
        enter = stack.enter_context
        bucket = enter(BucketServer(_abo(folder / "abo", full)))
        kaggle = enter(KaggleServer(b""))
        for name, drawing in (("autism_faces", faces), ("fer", fer)):
            source = full.data[name].source.kaggle
            archive = _zipped(_drawn(drawing, folder / name, 60, 24))
            kaggle.others[source.dataset, source.version] = archive
        hub = Hub(
            *_models(folder / "models", tiny.base, full.base),
            _roberta(folder / "roberta", full),
            _esnlive(folder / "esnlive", full),
            _webvid(folder / "webvid", full, bucket),
        )
        yield World(enter(running(hub)), kaggle, bucket, enter(ProxyServer()))


def _drawn(drawing: object, folder: Path, train: int, test: int, size: int = 96) -> Path:
    folder.mkdir(parents=True)
    drawing.write(Drawn(drawing="faces", train=train, test=test, size=size), folder, 1)
    return folder


def _zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".jpg", ".png")):
            archive.write(path, path.relative_to(folder))
    return buffer.getvalue()


def _models(folder: Path, tiny: dict[str, Base], full: dict[str, Base]) -> list[Repository]:
    from src import families
    from src.schema import Text, Vision
    from src.training.pretrain import corpus

    made: dict[HubBase, Repository] = {}
    for name, base in full.items():
        place = folder / base.model.id
        if base.model in made:
            continue
        spec = tiny[name].model.model_copy(
            update={
                "image_size": SIDES.get(base.family, 224),
                "vision": Vision(**SMALL),
                "text": Text(**SMALL, kv_heads=1 if base.family == "qwen2_vl" else 2),
            }
        )
        model, processor = families.load(base.family).build(spec, corpus(spec, 1), 1)
        model.save_pretrained(place, max_shard_size="1MB")
        processor.save_pretrained(place)
        commit = base.model.revision or NEWEST
        made[base.model] = Repository(place, base.model.id, commit, "models")
    return list(made.values())


def _roberta(folder: Path, full: Params) -> Repository:
    from src.metrics.bertscore import LARGE
    from tests.metrics.test_bertscore import write_tiny_roberta

    write_tiny_roberta(folder)
    return Repository(folder, LARGE, full.evaluate.bertscore.partition("@")[2], "models")


def _esnlive(folder: Path, full: Params) -> Repository:
    """The splits as Parquet with the pictures in it."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    drawn = _drawn(scenes, folder / "drawn", 40, 12)
    gold = ClassLabel(names=["entailment", "neutral", "contradiction"])
    names = ("pairID", "Flickr30kID", "hypothesis", "explanation")
    features = Features(
        {"image": Image(), "gold_label": gold} | {name: Value("string") for name in names}
    )
    for ours, theirs in (("train", "train"), ("dev", "validation"), ("test", "test")):
        with (drawn / f"esnlive_{ours}.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                {name: row[name] for name in names}
                | {"gold_label": row["gold_label"], "image": _picture(drawn, row["Flickr30kID"])}
                for row in csv.DictReader(file)
            ]
        file = folder / f"repo/data/{theirs}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        Dataset.from_list(rows, features=features).to_parquet(file, batch_size=20)
    source = full.data["esnlive"].source.esnlive
    return Repository(folder / "repo", source.dataset, source.revision or NEWEST, "datasets")


def _picture(drawn: Path, name: str) -> dict[str, object]:
    return {"bytes": (drawn / "flickr30k_images" / name).read_bytes(), "path": None}


def _webvid(folder: Path, full: Params, bucket: BucketServer) -> Repository:
    """One table of addresses of the bucket; every tenth leads nowhere, as links do."""
    drawn = _drawn(clips, folder / "drawn", 60, 20)
    rows = []
    for table in sorted(drawn.glob("*.csv")):
        with table.open(newline="", encoding="utf-8") as file:
            rows += list(csv.DictReader(file))
    for number, row in enumerate(rows):
        path = f"clips/{row['page_dir']}/{row['videoid']}.mp4"
        row["contentUrl"] = f"{bucket.url}/{path}"
        if number % 10:
            bucket.types[path] = "video/mp4"
            bucket.objects[path] = (
                drawn / "videos" / row["page_dir"] / f"{row['videoid']}.mp4"
            ).read_bytes()
    source = full.data["webvid"].source.webvid
    (name,) = source.tables
    file = folder / "repo" / name
    file.parent.mkdir(parents=True)
    with file.open("w", newline="", encoding="utf-8") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return Repository(folder / "repo", source.dataset, source.revision or NEWEST, "datasets")


def _abo(folder: Path, full: Params) -> dict[str, bytes]:
    drawn = _drawn(products, folder, 40, 20)
    source = full.data["abo"].source.abo
    (drawn / "README.md").write_text("Amazon Berkeley Objects\n")
    return {
        getattr(source, key).path: _tarred(drawn, [key, "README.md"])
        for key in ("listings", "images")
    }


def _tarred(folder: Path, names: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in names:
            archive.add(folder / name, name)
    return buffer.getvalue()
