import csv
import random

import numpy as np
import pytest
from PIL import Image

from src.drawing import faces
from src.schema import Drawn

SOURCE = Drawn(drawing="faces", train=12, test=6, size=64)


def test_faces_are_written_in_the_layout_of_the_kaggle_set(tmp_path):
    faces.write(SOURCE, tmp_path, seed=1)
    top = tmp_path / "Autistic Children Emotions - Dr. Fatma M. Talaat"
    names = {"anger", "fear", "joy", "Natural", "sadness", "surprise"}
    for split, count in (("Train", 2), ("Test", 1)):
        assert {p.name for p in (top / split).iterdir()} == names
        assert all(len(list(p.iterdir())) == count for p in (top / split).iterdir())


def test_the_same_seed_draws_the_same_bytes_and_another_seed_others(tmp_path):
    written = []
    for number, seed in enumerate((1, 1, 2)):
        folder = tmp_path / str(number)
        faces.write(SOURCE, folder, seed)
        written.append([p.read_bytes() for p in sorted(folder.rglob("*.jpg"))])
    assert written[0] == written[1] != written[2]


def test_test_faces_are_not_training_faces(tmp_path):
    faces.write(SOURCE, tmp_path, seed=1)
    pictures = [p.read_bytes() for p in tmp_path.rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures) == 18


def test_regions_lie_on_the_ink(tmp_path):
    """The mouth's box is darker than the skin around it, wherever the face was turned."""
    rng = random.Random(1)
    for mouth in faces.MOUTHS:
        face = faces.Face(mouth, "level", "normal", "white", "gray", glasses=False)
        picture, boxes = faces.draw(rng, face, 128)
        grey = np.asarray(picture.convert("L"), float)
        x0, y0, x1, y1 = (round(128 * v) for v in boxes["mouth"])
        inside = grey[y0:y1, x0:x1]
        assert np.quantile(inside, 0.02) < 0.6 * np.median(grey), mouth


def test_regions_are_shares_of_the_picture(tmp_path):
    faces.write(SOURCE, tmp_path, seed=1)
    (table,) = tmp_path.rglob("regions.csv")
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 5 * 18
    for row in rows:
        assert (table.parent / row["image"]).is_file()
        assert 0 <= float(row["x0"]) < float(row["x1"]) <= 1
        assert 0 <= float(row["y0"]) < float(row["y1"]) <= 1


@pytest.mark.parametrize("emotion", faces.EMOTIONS)
def test_no_two_emotions_share_a_face(emotion):
    def looks(name):
        mouths, brows, eyes = faces.EMOTIONS[name]
        return {(m, b, e) for m in mouths for b in brows for e in eyes}

    assert not any(looks(emotion) & looks(other) for other in faces.EMOTIONS if other != emotion)


def test_a_lesson_never_says_an_emotion():
    rng = random.Random(0)
    for _ in range(200):
        lesson = faces.lesson(rng, 32)
        said = " ".join([lesson.caption, *sum(lesson.questions.values(), ())]).lower()
        assert not any(word.lower() in said for word in faces.VOCABULARY)
        assert isinstance(lesson.picture, Image.Image)
