import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.readers.sharegpt import read
from src.records import Raw, Rejected
from src.schema import Data, Source

SHIPPED = (Path(__file__).parents[2] / "../shared/real/llamafactory").resolve()
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}


@pytest.fixture
def videos() -> Data:
    return Data(
        name="clips",
        reader="sharegpt",
        labels=None,
        licence="",
        publisher_splits=True,
        validation=0.1,
        test=0.1,
        near_duplicate_distance=0,
        limit=None,
        frames=8,
        image_size=56,
        source=Source(folder="clips"),
    )


@pytest.fixture
def pictures(videos: Data) -> Data:
    return videos.model_copy(update={"frames": None})


def fill(folder: Path, *files: str) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def put(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def said(*texts: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    roles = ("user", "assistant") * len(texts)
    return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]


def row(*texts: str, **media: Any) -> dict[str, Any]:
    return {"messages": said(*texts), **media}


def named(folder: Path, name: str, rows: Any, **columns: str) -> None:
    """A list with its entry in dataset_info.json."""
    put(folder / f"{name}.json", rows)
    info = folder / "dataset_info.json"
    known = json.loads(info.read_text()) if info.exists() else {}
    columns = {"messages": "messages", **columns}
    tags = TAGS | {"assistant_tag": "assistant"}
    entry = {"file_name": f"{name}.json", "formatting": "sharegpt"}
    put(info, known | {name: entry | {"columns": columns, "tags": tags}})


def found(folder: Path, data: Data) -> list[Raw]:
    return [r for r in read(folder, data) if isinstance(r, Raw)]


def rejected(folder: Path, data: Data) -> dict[str, str]:
    return {r.file: r.reason for r in read(folder, data) if isinstance(r, Rejected)}


def test_a_row_is_a_question_about_its_video(tmp_path: Path, videos: Data) -> None:
    fill(tmp_path, "media/1.mp4")
    rows = [row("<video>Why is it funny?", "A baby reads.", videos=["media/1.mp4"])]
    named(tmp_path, "demo", rows, videos="videos")
    expected = Raw(
        "media/1.mp4#demo.json:1",
        tmp_path / "media/1.mp4",
        question="Why is it funny?",
        answers=("A baby reads.",),
        group="media/1.mp4",
    )
    assert found(tmp_path, videos) == [expected]
    assert rejected(tmp_path, videos) == {}


def test_columns_and_tags_are_those_that_are_named(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "a.jpg")
    talk = [
        {"who": "boss", "says": "Be brief."},
        {"who": "me", "says": "What is it? <image>"},
        {"who": "it", "says": "A cup."},
    ]
    put(tmp_path / "d.json", [{"talk": talk, "pics": "a.jpg"}])
    tags = {"role_tag": "who", "content_tag": "says", "user_tag": "me", "assistant_tag": "it"}
    columns = {"messages": "talk", "images": "pics"}
    entry = {"file_name": "d.json", "formatting": "sharegpt", "columns": columns}
    put(tmp_path / "dataset_info.json", {"d": entry | {"tags": tags | {"system_tag": "boss"}}})
    (raw,) = found(tmp_path, pictures)
    assert (raw.question, raw.answers) == ("What is it?", ("A cup.",))


def test_the_defaults_are_those_of_llama_factory(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "a.jpg")
    talk = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]
    put(tmp_path / "d.json", [{"conversations": talk, "images": ["a.jpg"]}])
    entry = {"file_name": "d.json", "formatting": "sharegpt", "columns": {"images": "images"}}
    put(tmp_path / "dataset_info.json", {"d": entry})
    (raw,) = found(tmp_path, pictures)
    assert (raw.question, raw.answers) == ("What?", ("A cup.",))


def test_lists_without_a_description_are_found_by_their_looks(
    tmp_path: Path, pictures: Data
) -> None:
    fill(tmp_path, "a.jpg", "sub/b.jpg")
    talk = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "A cup."}]
    put(tmp_path / "llava.json", [{"conversations": talk, "image": "a.jpg"}])
    rows = [row("<image>", text, images=["b.jpg"]) for text in ("A\u2028b", "B")]
    lines = "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)
    (tmp_path / "sub/train.jsonl").write_text(f"{lines}\n\n", encoding="utf-8")
    put(tmp_path / "text.json", [row("Hello?", "Hello.")])
    put(tmp_path / "other.json", {"a": 1})
    put(tmp_path / "_source.json", [row("<image>", "x", images=["a.jpg"])])
    raws = found(tmp_path, pictures)
    assert [(r.id, r.question, r.answers[0], r.split) for r in raws] == [
        ("a.jpg#llava.json:1", "What?", "A cup.", None),
        ("sub/b.jpg#sub/train.jsonl:1", None, "A\u2028b", "train"),
        ("sub/b.jpg#sub/train.jsonl:2", None, "B", "train"),
    ]


def test_media_lie_beside_the_list_or_in_the_folder(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "data/beside.jpg", "media/above.jpg")
    shown = ["beside.jpg", "media\\above.jpg"]
    named(tmp_path / "data", "d", [row("<image>", "x", images=[m]) for m in shown], images="images")
    assert [raw.path.name for raw in found(tmp_path, pictures)] == ["beside.jpg", "above.jpg"]


def test_later_turns_are_told_not_lost(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "a.jpg")
    texts = ["<image>Who?", "Kane.", "Doing what?<image>", "Playing.", "Why?"]
    named(tmp_path, "d", [row(*texts, images=["a.jpg", "b.jpg"])], images="images")
    (raw,) = found(tmp_path, pictures)
    assert (raw.id, raw.question, raw.answers) == ("a.jpg#d.json:1", "Who?", ("Kane.",))
    assert rejected(tmp_path, pictures) == {
        "d.json row 1 turn 2": "a later turn: Doing what?<image>",
        "d.json row 1 turn 3": "a later turn: Why?",
    }


PICTURE = {"images": ["a.jpg"]}
FAULTS = [
    ("a text", "no messages: nothing in messages"),
    (row(**PICTURE) | {"messages": "Hello"}, "no messages: nothing in messages"),
    (row(**PICTURE), "no answer"),
    (row("<image>What?", **PICTURE), "no answer"),
    (row("<image>What?", " ", **PICTURE), "no answer"),
    ({"messages": said("a", "b")[::-1]}, "out of turn: assistant where user was to speak"),
    (row("<image>What?", None, **PICTURE), "no text: what assistant says is NoneType"),
    (row("What?", "A cup."), "no picture or video in the first turn"),
    (row("What?", "A cup.", "<image>?", "x", **PICTURE), "no picture or video in the first turn"),
    (row("What?", "A", **PICTURE), "placeholders do not match: 0 <image> in the text, 1 listed"),
    (row("<image>What?", "A"), "placeholders do not match: 1 <image> in the text, 0 listed"),
    (row("<video>?", "A", **PICTURE), "placeholders do not match: 0 <image> in the text, 1 listed"),
    (
        row("<image><image>?", "A", images=["a.jpg", "b.jpg"]),
        "several pictures: 2 <image> in one turn",
    ),
    (
        row("<image><video>?", "A", **PICTURE, videos=["v.mp4"]),
        "several pictures: 1 <image>, 1 <video> in one turn",
    ),
    (row("Draw it.", "<image>", **PICTURE), "a picture or video as answer"),
    (row("<image><audio>?", "A", **PICTURE), "sound: nothing here hears it"),
    (row("<image>?", "A", images=[3]), "no path of a file: the image is int"),
    (row("<image>?", "A", images=["none.jpg"]), "no such file: none.jpg"),
    (row("<image>?", "A", images=["../../x.jpg"]), "outside the data's folder: ../../x.jpg"),
    (
        row("<video>?", "A", videos=["v.mp4"]),
        "a video where pictures are expected: set data.clips.frames",
    ),
]


@pytest.mark.parametrize(("bad", "reason"), FAULTS)
def test_a_row_that_gives_no_example_says_why(
    tmp_path: Path, pictures: Data, bad: Any, reason: str
) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "v.mp4")
    good = row("<image>What?", "A cup.", **PICTURE)
    named(tmp_path, "d", [bad, good], images="images", videos="videos")
    assert rejected(tmp_path, pictures) == {"d.json row 1": reason}
    assert len(found(tmp_path, pictures)) == 1


def test_pictures_among_videos_name_the_parameter(tmp_path: Path, videos: Data) -> None:
    fill(tmp_path, "a.jpg")
    named(tmp_path, "d", [row("<image>What?", "A cup.", **PICTURE)], images="images")
    reason = "a picture where videos are expected: empty data.clips.frames"
    assert rejected(tmp_path, videos) == {"d.json row 1": reason}


def test_an_answer_must_name_one_label_where_there_are_some(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "a.jpg")
    rows = [row("<image>", text, **PICTURE) for text in ("A Dog.", "A cow.")]
    named(tmp_path, "d", rows, images="images")
    labelled = pictures.model_copy(update={"labels": ["cat", "dog"]})
    assert [raw.label for raw in found(tmp_path, labelled)] == ["dog"]
    assert rejected(tmp_path, labelled) == {"d.json row 2": "none of the labels: A cow."}


def test_a_list_that_is_named_and_not_there_is_told(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "a.jpg")
    named(tmp_path, "gone", [], images="images")
    named(tmp_path, "d", [row("<image>", "A cup.", **PICTURE)], images="images")
    (tmp_path / "gone.json").unlink()
    assert rejected(tmp_path, pictures) == {"dataset_info.json gone": "no such file: gone.json"}
    assert len(found(tmp_path, pictures)) == 1


def test_a_list_with_media_in_another_form_is_told(tmp_path: Path, pictures: Data) -> None:
    fill(tmp_path, "a.jpg")
    info = tmp_path / "dataset_info.json"
    other = {"file_name": "o.json", "columns": {"images": "images"}}
    text = {"file_name": "t.json", "formatting": "alpaca"}
    put(info, {"default": other, "said": other | {"formatting": "alpaca"}, "text": text})
    told = "no messages in its formatting: alpaca; sharegpt or openai is read"
    with pytest.raises(UserError, match=f"; dataset_info.json default: {told}$"):
        list(read(tmp_path, pictures))
    named(tmp_path, "d", [row("<image>", "A cup.", **PICTURE)], images="images")
    places = ("dataset_info.json default", "dataset_info.json said")
    assert rejected(tmp_path, pictures) == dict.fromkeys(places, told)
    assert len(found(tmp_path, pictures)) == 1


def test_no_list_with_media_is_an_error(tmp_path: Path, pictures: Data) -> None:
    named(tmp_path, "d", [row("Hello?", "Hello.")])
    with pytest.raises(UserError, match="holds no list of messages with pictures or videos"):
        list(read(tmp_path, pictures))


@pytest.mark.parametrize(("name", "text"), [("d.json", "[{"), ("d.jsonl", '{"a": 1}\n{"a"')])
def test_broken_json_is_an_error(tmp_path: Path, pictures: Data, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}: is no JSON: .* line {text.count(chr(10)) + 1}"):
        list(read(tmp_path, pictures))


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="the shared files are not there")
@pytest.mark.parametrize(("frames", "usable"), [(8, "mllm_video_demo"), (None, "mllm_demo")])
def test_the_lists_that_llama_factory_ships_are_read(
    videos: Data, frames: int | None, usable: str
) -> None:
    data = videos.model_copy(update={"frames": frames})
    reasons = rejected(SHIPPED, data)
    unread = "videos" if frames else "pictures"
    assert found(SHIPPED, data) == []
    kinds = {name.partition(" ")[0].removesuffix(".json"): set() for name in reasons}
    for name, reason in reasons.items():
        kinds[name.partition(" ")[0].removesuffix(".json")].add(reason.partition(":")[0])
    assert kinds.pop("dataset_info") == {"no such file"}
    assert kinds.pop(usable) == {"no such file"}
    assert list(kinds.values()) == [
        {f"a {'video' if frames is None else 'picture'} where {unread} are expected"}
    ]
