"""Which values to change where a recipe does not fit, or where there is room for a faster way."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from src import families
from src.planning.plan import Needs, Plan, needs
from src.schema import Base, HubBase, Params, Recipe

STEP = 32  # tokens, to which a length is rounded up


@dataclass(frozen=True)
class Remedy:
    """A key of params.yaml and its value, and the GPU memory that it leads to."""

    key: str
    value: Any
    needs: Needs


@dataclass(frozen=True)
class _State:
    """A recipe on its way to fit."""

    recipe: Recipe
    base: Base
    batch: int
    needs: Needs


def too_long(plan: Plan) -> int | None:
    """The `max_length` that a recipe needs, where an example does not fit into its own."""
    long = plan.needs.lengths
    needed = long.prompt + long.answer
    return -(-needed // STEP) * STEP if needed > plan.recipe.train.max_length else None


def lacks_bf16(recipe: Recipe, bf16: bool) -> bool:
    """Whether a recipe computes in bf16 and a GPU does not."""
    return recipe.precision == "bf16" and not bf16


def without_checkpointing(plan: Plan, params: Params) -> Remedy | None:
    """What a recipe needs without checkpointing, which costs time and changes no loss.

    None where it has none.
    """
    if not plan.recipe.train.gradient_checkpointing:
        return None
    train = plan.recipe.train.model_copy(update={"gradient_checkpointing": False})
    recipe = plan.recipe.model_copy(update={"train": train})
    needed = needs(recipe, plan.base, plan.data, plan.batch)
    key = f"recipes.{recipe.name}.{params.scale}.gradient_checkpointing"
    return Remedy(key, "false", needed)


def remedies(plan: Plan, params: Params, available: int, bf16: bool = True) -> list[Remedy]:
    """Changes, each on top of those before it, up to the first that fits; all, if none does.

    First another precision, where the GPU has no bf16. Then what costs time alone (checkpointing,
    smaller batches with as much more accumulation), then what shortens examples, then what changes
    the model.
    """
    state = _State(plan.recipe, plan.base, plan.batch, plan.needs)
    found: dict[str, Remedy] = {}
    if lacks_bf16(plan.recipe, bf16):
        key = f"recipes.{plan.recipe.name}.precision.{params.scale}"
        value = "fp32" if "fp16" in families.load(plan.recipe.family).UNSAFE else "fp16"
        changed = plan.recipe.model_copy(update={"precision": value})
        state = _again(replace(state, recipe=changed), plan)
        found[key] = Remedy(key, value, state.needs)
    while state.needs.peak > available:
        step = next(_next(state, plan, params, available), None)
        if step is None:
            break
        changes, state = step
        for key, value in changes.items():
            # A value that is halved twice is said once, at its last.
            found.pop(key, None)
            found[key] = Remedy(key, value, state.needs)
    return list(found.values())


def _next(
    state: _State, plan: Plan, params: Params, available: int
) -> Iterator[tuple[dict[str, Any], _State]]:
    """The changes that are still to be made, the mildest first."""
    recipe, training = state.recipe, state.recipe.train
    own, scale = f"recipes.{recipe.name}", params.scale

    def trained(**changes: Any) -> tuple[dict[str, Any], _State]:
        changed = recipe.model_copy(update={"train": training.model_copy(update=changes)})
        named = {f"{own}.{scale}.{key}": value for key, value in changes.items()}
        return named, _again(replace(state, recipe=changed), plan)

    if state.needs.answering.total > available and state.batch > 1:
        half = replace(state, batch=state.batch // 2)
        yield {f"evaluate.batch_size.{scale}": half.batch}, _again(half, plan)
    if state.needs.training.total > available:
        if not training.gradient_checkpointing:
            yield trained(gradient_checkpointing=True)
        if training.batch_size > 1:
            less = -(-training.batch_size // 2)
            more = round(training.gradient_accumulation * training.batch_size / less)
            yield trained(batch_size=less, gradient_accumulation=more)
        least = -(-(state.needs.lengths.prompt + state.needs.lengths.answer) // STEP) * STEP
        if training.max_length > least:
            yield trained(max_length=least)
        if training.optimizer in ("paged_adamw_32bit", "adamw_torch", "adamw_torch_fused"):
            yield trained(optimizer="paged_adamw_8bit")
    if recipe.generation.num_beams > 1 and state.needs.answering.total > available:
        one = recipe.generation.model_copy(update={"num_beams": 1})
        changed = recipe.model_copy(update={"generation": one})
        yield {f"{own}.generation.num_beams": 1}, _again(replace(state, recipe=changed), plan)
    if recipe.quantization.bits == 16:
        four = recipe.quantization.model_copy(update={"bits": 4})
        changed = recipe.model_copy(update={"quantization": four})
        yield {f"{own}.quantization.bits": 4}, _again(replace(state, recipe=changed), plan)
    for base in _smaller(state, params, plan):
        yield {f"{own}.base": base.base.name}, base


def _again(state: _State, plan: Plan) -> _State:
    return replace(state, needs=needs(state.recipe, state.base, plan.data, state.batch))


def _smaller(state: _State, params: Params, plan: Plan) -> list[_State]:
    """The next smaller base of the family, if there is one."""
    others = [
        _again(replace(state, base=base), plan)
        for base in params.base.values()
        if base.family == state.base.family
        and isinstance(base.model, HubBase)
        and base.model.id != getattr(state.base.model, "id", None)
    ]
    smaller = [s for s in others if s.needs.peak < state.needs.peak]
    return sorted(smaller, key=lambda s: -s.needs.peak)[:1]
