"""Which words of a listing are an answer, by kind: what is in no table gives no question."""

import re
import unicodedata
from collections.abc import Iterable, Mapping


def words(text: str) -> list[str]:
    """The words and numbers of a text, in lower case and whatever the width of its letters."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())


def _by_word(table: str) -> dict[str, str]:
    """A table of lines `answer: other words for it`, or of answers alone, by word."""
    found = {}
    for line in table.strip().splitlines():
        answer, _, others = line.partition(":")
        found |= {word: answer.strip() for word in [*words(answer), *words(others)]}
    return found


def _alone(table: str) -> dict[str, str]:
    return {word: word for word in table.split()}


ENGLISH: Mapping[str, Mapping[str, str]] = {
    "color": _alone(
        "black white red green blue yellow orange purple pink brown beige gold silver tan teal "
        "turquoise ivory cream bronze copper khaki maroon clear"
    )
    | _by_word(
        """
        gray: grey charcoal
        blue: navy
        purple: violet
        gold: golden
        clear: transparent
        multicolor: multi multicolour multicolored multicoloured
        """
    ),
    "material": _alone(
        "metal steel iron brass copper plastic polypropylene cotton polyester nylon wool linen "
        "silk velvet leather suede rubber silicone glass ceramic porcelain stoneware marble stone "
        "paper cardboard bamboo rattan wicker jute foam acrylic vinyl canvas denim polyurethane "
        "polycarbonate petg pla abs tpu pvc mdf gold silver platinum resin mesh fleece spandex "
        "viscose rayon concrete fabric microfiber"
    )
    | _by_word(
        """
        wood: wooden hardwood
        aluminum: aluminium
        wool: woolen woollen
        microfiber: microfibre
        """
    ),
    "pattern": _by_word(
        """
        solid: plain
        striped: stripe stripes
        dotted: dot dots polka
        floral: flower flowers
        checkered: check checked checks
        plaid: tartan
        printed: print
        camouflage: camo
        """
    )
    | _alone("geometric abstract paisley damask herringbone chevron leopard"),
    "style": _alone(
        "modern traditional contemporary rustic casual classic industrial farmhouse vintage "
        "bohemian transitional scandinavian coastal minimalist formal"
    ),
    "shape": _alone("square oval hexagonal")
    | _by_word(
        """
        round: circular circle
        rectangular: rectangle
        cylindrical: cylinder
        triangular: triangle
        heart
        """
    ),
}
# German, Spanish, French, Italian, Portuguese, Dutch, Japanese, Chinese.
FOREIGN: Mapping[str, Mapping[str, str]] = {
    "color": _by_word(
        """
        black: schwarz negro negra noir noire nero nera preto preta zwart ブラック 黒 黑色
        white: weiß weiss blanco blanca blanc blanche bianco branco wit ホワイト 白 白色
        gray: grau gris grigio grigia cinza cinzento grijs グレー 灰色
        red: rot rojo roja rouge rosso rossa vermelho vermelha rood レッド 赤 红色
        green: grün verde vert verte groen グリーン 緑 绿色
        blue: blau azul bleu bleue blu blauw ブルー 青 蓝色
        yellow: gelb amarillo amarilla jaune giallo gialla amarelo amarela geel イエロー 黄色
        orange: orange naranja arancione laranja oranje オレンジ 橙色
        purple: lila violett morado morada violet violette viola roxo roxa paars パープル 紫 紫色
        pink: rosa rose roze ピンク 粉色
        brown: braun marrón marron marrone castanho marrom bruin ブラウン 茶色 棕色
        beige: beige bege ベージュ 米色
        gold: gold dorado dorée doré oro dourado goud ゴールド 金色
        silver: silber plateado plata argenté argent argento prateado zilver シルバー 银色
        multicolor: mehrfarbig multicolor multicolore multicolour meerkleurig マルチカラー
        """
    ),
    "material": _by_word(
        """
        wood: holz madera bois legno madeira hout 木 木製 木材
        metal: metall metal métal metallo metaal 金属
        steel: stahl edelstahl acero acier acciaio aço staal ステンレス 鋼
        plastic: kunststoff plastik plástico plastique plastica plastic プラスチック 塑料
        rubber: gummi caucho goma caoutchouc gomma borracha ゴム 橡胶
        leather: leder cuero piel cuir pelle cuoio couro レザー 皮革
        cotton: baumwolle algodón coton cotone algodão katoen 綿 コットン
        polyester: polyester poliéster poliestere ポリエステル
        nylon: nylon nailon ナイロン 尼龙
        glass: glas vidrio cristal verre vetro vidro ガラス 玻璃
        silicone: silikon silicona silicone siliconen シリコン 硅胶
        """
    ),
    "pattern": _by_word(
        """
        solid: einfarbig liso uni unie 無地
        striped: gestreift rayas rayé rayée rigato ストライプ
        dotted: gepunktet lunares pois ドット
        """
    ),
}
# Beside them a word is no material: faux leather is none.
UNSURE = {
    *("faux", "vegan", "artificial", "imitation", "synthetic", "like", "look", "effect", "veneer"),
    *("plated", "free", "non", "coated", "finish", "blend"),
}

# Colours that a picture shows beyond doubt, so that it can be asked whether a product has one.
PLAIN_COLOURS = {
    *("black", "white", "gray", "red", "green", "blue", "yellow", "orange", "purple", "pink"),
    *("brown", "beige", "gold", "silver"),
}
ALIKE = {
    frozenset(pair)
    for pair in (
        ("gray", "silver"),
        ("gold", "yellow"),
        ("gold", "brown"),
        ("gold", "beige"),
        ("beige", "brown"),
        ("beige", "white"),
        ("orange", "red"),
        ("orange", "brown"),
        ("pink", "purple"),
        ("pink", "red"),
        ("white", "silver"),
    )
}

# Last words of a product type that do not say what a product is.
VAGUE = {
    *("product", "products", "other", "home", "kitchen", "living", "care", "component"),
    *("components", "supply", "supplies", "items", "additive", "equipment", "part", "parts"),
    *("goods", "apparel", "office", "seating", "accessory", "accessories", "protection"),
}
ODD_TYPES = {
    "FINERING": "ring",
    "FINEEARRING": "earring",
    "STOOL_SEATING": "stool",
    "FINENECKLACEBRACELETANKLET": None,
    "FINEOTHER": None,
}
NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}


def the_one(texts: Iterable[str], table: Mapping[str, str]) -> str | None:
    """The answer that the texts name, None where they name none or several."""
    found = {table[word] for text in texts for word in words(text) if word in table}
    if "multicolor" in found:
        return "multicolor"
    return found.pop() if len(found) == 1 else None
