from src import tasks
from src.inference.predict import PROPERTIES, answers
from src.models import load_base
from src.training.load import collator_of
from tests.conftest import LABELS


def test_a_name_of_a_class_is_written_whole_however_short_answers_are(base, recipe, faces):
    names = [f"{label}, of a rather longer name" for label in LABELS]
    rows = [dict.fromkeys(PROPERTIES) | face | {"label": names[0]} for face in faces[:3]]
    model, texts = load_base(base, recipe), []
    for most in (1, 200):
        written = recipe.generation.model_copy(update={"max_new_tokens": most})
        asked = recipe.model_copy(update={"generation": written, "doubt": None})
        collator = collator_of(base, asked, tasks.load(asked, names), answers=False)
        frame = answers(model, collator, asked, rows, rows, batch_size=4)
        texts.append(frame["generated"].tolist())
    whole = max(len(collator.answer_ids(name)) for name in names)
    shown = [len(collator.tokenizer(text)["input_ids"]) for text in texts[0]]
    assert max(shown) > 1
    assert all(long.startswith(short) for short, long in zip(*texts, strict=True))
    assert whole > 8
