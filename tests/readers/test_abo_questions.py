import pytest

from src.readers import abo_questions
from src.readers.abo_questions import answers, is_english, product_type, questions, yes_no
from src.readers.abo_words import ALIKE, words


def said(value: str, tag: str = "en_US", **more: object) -> dict:
    return {"language_tag": tag, "value": value} | more


FILAMENT = {
    "brand": [said("AmazonBasics", "en_AE")],
    "color": [said("Translucent Yellow", "en_AE")],
    "item_name": [said("AmazonBasics PETG 3D Printer Filament, 1.75mm, 1 kg Spool", "en_AE")],
    "material": [said("PETG (Polyethylene Terephtalate Glycol-modified)", "en_AE")],
    "product_type": [{"value": "MECHANICAL_COMPONENTS"}],
    "style": [said("1-Pack", "en_AE")],
}


def test_a_listing_of_the_publishers() -> None:
    expected = {"color": "yellow", "material": "petg", "brand": "amazonbasics", "count": "1"}
    assert answers(FILAMENT) == expected


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Bright Red", "red"),
        ("Navy Blue", "blue"),
        ("grey", "gray"),
        ("Multi-Colour, Blue", "multicolor"),
        ("Black/White", None),
        ("Others", None),
        ("", None),
    ],
)
def test_a_colour_is_one_known_word_or_none(text: str, answer: str | None) -> None:
    assert answers({"color": [said(text)]}).get("color") == answer


def test_a_standardized_colour_goes_before_its_free_text() -> None:
    color = [said("Midnight Green", standardized_values=["Black"])]
    assert answers({"color": color}) == {"color": "black"}
    color = [said("Midnight Green", standardized_values=["Other"])]
    assert answers({"color": color}) == {"color": "green"}


@pytest.mark.parametrize(
    ("text", "tag", "answer"),
    [
        ("Rot", "de_DE", "red"),
        ("Weiß", "de_DE", "white"),
        ("rojo", "es_ES", "red"),
        ("レッド", "ja_JP", "red"),
        ("ﾚｯﾄﾞ", "ja_JP", "red"),
        ("Rouge vif", "fr_FR", "red"),
        ("Kirsche", "de_DE", None),
        ("Rot", "en_US", None),
    ],
)
def test_another_language_counts_where_its_word_is_known(
    text: str, tag: str, answer: str | None
) -> None:
    assert answers({"color": [said(text, tag)]}).get("color") == answer


def test_english_goes_before_another_language() -> None:
    color = [said("Rot", "de_DE"), said("Orange", "en_GB")]
    assert answers({"color": color}) == {"color": "orange"}
    # An English value that says nothing is not made good by a foreign one.
    assert answers({"color": [said("Rot", "de_DE"), said("Assorted", "en_GB")]}) == {}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("100% Cotton", "cotton"),
        ("Solid Wooden", "wood"),
        ("Faux Leather", None),
        ("Gold Plated", None),
        ("Cotton, Polyester", None),
    ],
)
def test_a_material_is_one_that_the_product_is_made_of(text: str, answer: str | None) -> None:
    assert answers({"material": [said(text)]}).get("material") == answer
    assert answers({"fabric_type": [said(text)]}).get("material") == answer


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("CELLULAR_PHONE_CASE", "case"),
        ("CAKE", "cake"),
        ("FINERING", "ring"),
        ("OFFICE_PRODUCTS", None),
        ("HOME_BED_AND_BATH", None),
        ("ACCESSORY_OR_PART_OR_SUPPLY", None),
    ],
)
def test_a_type_is_the_noun_at_its_end(value: str, answer: str | None) -> None:
    assert answers({"product_type": [{"value": value}]}).get("product_type") == answer


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("Blueberry Muffins, 10.3 oz (12 ct)", "12"),
        ("Bright Red Pack of 2", "2"),
        ("Towels, Set of Four, White", "4"),
        ("3-Piece Sofa", "3"),
        ("Rubber Ball", None),
        ("Screws, 500 Count", None),
        ("2-Pack, 100 Count", None),
        ("Pack of 2, Set of 3", None),
        ("Sheets, 400 Thread Count", None),
        ("1.5 ct ring", None),
    ],
)
def test_a_pack_is_counted_where_the_name_is_clear(name: str, answer: str | None) -> None:
    assert answers({"item_name": [said(name)]}).get("count") == answer
    assert answers({"item_name": [said(name, "de_DE")]}) == {}


def test_a_stated_number_goes_before_the_name() -> None:
    listing = {"number_of_items": [{"value": 6}], "item_name": [said("Glasses, Pack of 2")]}
    assert answers(listing) == {"count": "6"}


@pytest.mark.parametrize(
    ("text", "answer"),
    [("Amazon Brand - Solimo", "solimo"), ("find.", "find"), ("Stone & Beam", None), ("365", None)],
)
def test_a_brand_is_a_name_of_one_word(text: str, answer: str | None) -> None:
    assert answers({"brand": [said(text, "de_DE")]}).get("brand") == answer


@pytest.mark.parametrize(
    "value", [None, "Red", [], ["Red"], [{}], [{"value": 3}], {"value": "Red"}]
)
def test_values_of_another_form_are_passed_over(value: object) -> None:
    keys = ("color", "material", "product_type", "brand", "style", "item_name", "number_of_items")
    listing = dict.fromkeys(keys, value)
    assert set(answers(listing)) <= {"count"}
    assert not is_english(listing)
    assert product_type(listing) is None
    assert answers({"color": [said("Red", standardized_values=value)]}) == {"color": "red"}


def test_no_question_gives_its_answer_away() -> None:
    """Where a word of the question is an answer, the question is not asked."""
    for kind, text in abo_questions.QUESTIONS.items():
        for word in words(text):
            assert questions({kind: word}) == []
    (asked,) = questions({"color": "red"})
    assert (asked.kind, asked.text, asked.answer) == ("color", "What color is the product?", "red")


def test_yes_and_no_are_as_frequent_for_every_colour() -> None:
    shares = {"red": 300, "green": 170, "blue": 100, "black": 25, "multicolor": 60, "gold": 3}
    own = {f"{c}{i}": c for c, n in shares.items() for i in range(n)}
    asked = yes_no(own)
    assert len(asked) > 550
    assert yes_no(dict(reversed(own.items()))) == asked
    for color in shares:
        about = [(p, q) for p, q in asked.items() if color in words(q.text)]
        yes = [p for p, q in about if q.answer == "yes"]
        assert len(about) == 2 * len(yes)
        assert all((own[p] == color) == (q.answer == "yes") for p, q in about)
        assert not any({own[p], color} in ALIKE for p, _ in about)
    assert not any("multicolor" in (own[p], *words(q.text)) for p, q in asked.items())
    assert not any({"yes", "no"} & set(words(q.text)) for q in asked.values())


def test_one_colour_alone_is_not_asked_about() -> None:
    assert yes_no({"a": "red", "b": "red"}) == {}
    assert yes_no({"a": "gray", "b": "silver"}) == {}
