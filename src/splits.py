"""Training, validation and test without a picture, person or near-duplicate on two sides."""

import warnings
from collections.abc import Sequence
from fractions import Fraction
from itertools import islice

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from src.errors import UserError
from src.records import Raw
from src.schema import Data

Splits = list[str | None]


def assign(
    data: Data, seed: int, raws: Sequence[Raw], groups: np.ndarray
) -> tuple[Splits, dict[int, list[int]]]:
    """Give each example its split: the publisher's, else one by group and stratified by label.

    A publisher's test is not touched: a group that it holds a part of loses its other pictures.
    The same goes for a publisher's validation against the rest.

    Returns:
        The split of each example, None where it belongs to none, and for each of these the
        pictures of its group for which it had to give way.

    Raises:
        UserError: too few pictures for the shares of `data`.
    """
    splits: Splits = [raw.split for raw in raws]
    leaks: dict[int, list[int]] = {}
    for kept, others in (("test", {"train", "validation", None}), ("validation", {"train", None})):
        holders: dict[int, list[int]] = {}
        for i in np.flatnonzero([s == kept for s in splits]):
            holders.setdefault(int(groups[i]), []).append(int(i))
        for i, now in enumerate(splits):
            if now in others and i not in leaks and int(groups[i]) in holders:
                leaks[i], splits[i] = holders[int(groups[i])], None
    rest = [i for i, raw in enumerate(raws) if i not in leaks and raw.split in ("train", None)]
    for name, share in (("test", data.test), ("validation", data.validation)):
        if name not in splits:
            held = _hold_out(rest, raws, groups, share, seed, f"data.{data.name}.{name}")
            splits = [name if i in held else s for i, s in enumerate(splits)]
            rest = [i for i in rest if i not in held]
    for i in rest:
        splits[i] = "train"
    return splits, leaks


def _hold_out(
    rest: Sequence[int], raws: Sequence[Raw], groups: np.ndarray, share: float, seed: int, key: str
) -> set[int]:
    """About `share` of the pictures, in whole groups."""
    part = Fraction(share).limit_denominator(max(20, round(1 / share)))
    folds = StratifiedGroupKFold(part.denominator, shuffle=True, random_state=seed)
    # Kinds of question where there are no classes.
    strata, own = [raws[i].label or raws[i].kind or "" for i in rest], groups[list(rest)]
    many = len(set(own.tolist()))
    too_few = UserError(
        f"{len(rest)} pictures, {many} of them different, are too few to hold out the share "
        f"{share}: add pictures or raise {key} in params.yaml"
    )
    if many < part.denominator:
        raise too_few
    with warnings.catch_warnings():
        # A class of fewer pictures than folds is missing in some: the caller looks at the result.
        warnings.simplefilter("ignore", UserWarning)
        try:
            held = list(islice(folds.split(strata, strata, own), part.numerator))
        except ValueError:
            raise too_few from None
    places = np.concatenate([test for _, test in held])
    if not 0 < len(places) < len(rest):
        raise too_few
    return {rest[i] for i in places}
