"""Plans as text for a terminal, one block a recipe."""

from collections.abc import Sequence

from src.planning import duration
from src.planning.duration import CARD, SHARE
from src.planning.machine import GIB, Machine, host_bytes, shared_bytes
from src.planning.memory import Memory
from src.planning.plan import Known, Plan
from src.planning.remedies import Remedy, lacks_bf16, remedies, too_long, without_checkpointing
from src.schema import HubBase, Params

GB, MB = 1e9, 1e6


def block(plan: Plan, params: Params, here: Machine) -> str:
    """Everything of one recipe."""
    recipe, made = plan.recipe, plan.needs.made
    model = plan.base.model.id if isinstance(plan.base.model, HubBase) else plan.base.name
    bits = f"4-bit {recipe.quantization.type}" if recipe.quantization.bits == 4 else "16-bit"
    of = made.parameters + made.trainable
    rows = [
        ("parameters", f"{made.trainable:,} trained of {of:,}"),
        ("download", _download(plan)),
        ("disk", _disk(plan)),
        ("GPU, training", _memory(plan.needs.training, "activations") + _training_shape(plan)),
        ("GPU, answers", _memory(plan.needs.answering, "cache") + _answering_shape(plan)),
        *_effort(plan),
        *(("here", line) for line in _verdict(plan, params, here)),
    ]
    title = f"{recipe.name}: {model}, {bits}, on {recipe.data}"
    return "\n".join([title, *(f"  {name:<14} {text}" for name, text in rows)])


def _download(plan: Plan) -> str:
    parts = [f"weights {_size(plan.weights)}", f"data {_size(plan.raw)}"]
    if plan.metric.bytes:
        parts.append(f"{plan.metric.how} {plan.metric.bytes / GB:.1f} GB")
    return ", ".join(parts)


def _size(known: Known) -> str:
    if known.bytes is None:
        return f"unknown {known.how}"
    return f"{known.bytes / GB:.1f} GB" + (f" ({known.how})" if known.how else "")


def _disk(plan: Plan) -> str:
    unknown = " and the raw data twice" if plan.raw.bytes is None else ""
    cache = (plan.weights.bytes or 0) + (plan.metric.bytes or 0)
    lacking = " and the weights" if plan.weights.bytes is None else ""
    return (
        f"{cache / GB:.1f} GB{lacking} in the Hub's cache, at most "
        f"{plan.repository_bytes / GB:.1f} GB{unknown} here, DVC's copies among them"
    )


def _memory(memory: Memory, kept: str) -> str:
    parts = {"weights": memory.weights, "adapter": memory.adapter, kept: memory.kept}
    parts |= {"workspace": memory.working, "fragmentation": memory.slack}
    terms = ", ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items())
    return f"{memory.total / GIB:.1f} GiB: {terms}, CUDA 1.0"


def _training_shape(plan: Plan) -> str:
    train, long = plan.recipe.train, plan.needs.lengths
    tokens = long.longest(train.batch_size, train.max_length).tokens
    saving = ", checkpointing" if train.gradient_checkpointing else ""
    return f" (batch {train.batch_size}, {tokens} tokens{saving})"


def _answering_shape(plan: Plan) -> str:
    beams = plan.recipe.generation.num_beams
    return f" (batch {plan.batch}, {f'{beams} beams' if beams > 1 else 'greedy'})"


def _effort(plan: Plan) -> list[tuple[str, str]]:
    train, long, one = plan.recipe.train, plan.needs.lengths, plan.work
    operations = duration.training_operations(one, train.gradient_checkpointing)
    an_update = train.batch_size * train.gradient_accumulation
    shape = f"{long.prompt + long.answer} tokens an example, {long.visual} of them visual"
    each = f"{operations * an_update / 1e12:.0f} TFLOP a step of {an_update} examples, {shape}"
    if plan.splits is None or plan.steps is None:
        unknown = "unknown until the data are here"
        return [("steps", f"{unknown}; {each}"), ("time", unknown)]
    counts = ", ".join(f"{name} {n:,}" for name, n in vars(plan.splits).items())
    return [
        ("examples", f"{counts} ({plan.counted})"),
        ("steps", f"{plan.steps:,}; {each}"),
        ("time", _time(plan, plan.splits, plan.steps)),
    ]


def _time(plan: Plan, splits: duration.Splits, steps: int) -> str:
    recipe, one, long = plan.recipe, plan.work, plan.needs.lengths
    train = recipe.train
    training = duration.training_seconds(one, train, splits.train, steps)
    reading = duration.reading_seconds(one, splits.validation, train.batch_size)
    asked = min(train.answered_each_epoch, splits.validation)
    asking = duration.answering_seconds(one, recipe, long, asked, plan.batch) * train.epochs
    validating = train.evaluations * reading + asking
    twice = 2 * duration.answering_seconds(one, recipe, long, splits.test, plan.batch)
    parts = {}
    if one.features:
        parts["features"] = duration.encoding_seconds(one, plan.pictures)
    parts |= {"training": training, "validation": validating, "base and tuned answers": twice}
    named = ", ".join(f"{name} {_hours(seconds)}" for name, seconds in parts.items())
    assumed = f"{SHARE:.0%} of the {CARD.rate / 1e12:.0f} TFLOP/s of an {CARD.name}"
    return f"{_hours(sum(parts.values()))} at {assumed}, not measured: {named}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 1):.0f} min"


def _verdict(plan: Plan, params: Params, here: Machine) -> list[str]:
    recipe, lines = plan.recipe, []
    own = f"recipes.{recipe.name}.{params.scale}"
    if needed := too_long(plan):
        long = plan.needs.lengths
        lines.append(
            f"NO: an example is about {long.prompt + long.answer} tokens, {long.visual} of them "
            f"visual, and max_length is {recipe.train.max_length}: set {own}.max_length: {needed}"
        )
    lines += _gpu(plan, params, here)
    weights = (plan.weights.bytes or 0) + (plan.metric.bytes or 0)
    lines += _room({"disk": plan.repository_bytes, "cache": weights}, here)
    if (host := host_bytes(recipe.train.workers)) > here.ram:
        lines.append(
            f"NO: needs some {host / GIB:.0f} GiB of RAM and has {here.ram / GIB:.0f}: "
            f"set {own}.workers: 0"
        )
    handed = shared_bytes(recipe.train, plan.needs.feature_bytes or plan.needs.pixel_bytes)
    if here.shared is not None and handed > here.shared:
        lines.append(
            f"NO: needs {handed / MB:.0f} MB of shared memory and /dev/shm has "
            f"{here.shared / MB:.0f}: give the container a larger --shm-size, or "
            f"set {own}.workers: 0"
        )
    return lines


def _gpu(plan: Plan, params: Params, here: Machine) -> list[str]:
    peak = plan.needs.peak
    if here.gpu_memory is None:
        return [
            f"NO: {here.fault or 'no GPU'}; needs one of {peak / GIB:.0f} GiB or more; what "
            "another one would need changed: --gpu-memory GIB"
        ]
    has = f"{here.gpu} of {here.gpu_memory / GIB:.0f} GiB"
    lacks = lacks_bf16(plan.recipe, here.bf16)
    if peak <= here.gpu_memory and not lacks:
        return [f"yes: {has} is enough for {peak / GIB:.1f}", *_faster(plan, params, here)]
    found = remedies(plan, params, here.gpu_memory, here.bf16)
    why = "does not compute in bf16" if lacks else f"is too small for {peak / GIB:.1f}"
    lines = [f"NO: {has} {why}; change, one after the other:"]
    lines += [f"    {_change(remedy)}" for remedy in found]
    if not found or found[-1].needs.peak > here.gpu_memory:
        lines.append("    and that is not enough: take a larger GPU")
    return lines


def _faster(plan: Plan, params: Params, here: Machine) -> list[str]:
    """What the GPU has room for, and would train sooner."""
    found = without_checkpointing(plan, params)
    if found is None or found.needs.peak > here.gpu_memory:
        return []
    without, now = (duration.training_operations(plan.work, kept) for kept in (False, True))
    return [f"faster: {_change(found)}, {1 - without / now:.0%} less to do"]


def _change(remedy: Remedy) -> str:
    return f"{remedy.key}: {remedy.value}  ->  {remedy.needs.peak / GIB:.1f} GiB"


def _room(needed: dict[str, int], here: Machine) -> list[str]:
    """Whether the disks have the bytes for the repository (`disk`) and the Hub's cache."""
    free = {"disk": here.disk, "cache": here.cache}
    if here.one_disk:
        needed, free = {"disk": sum(needed.values())}, {"disk": here.disk}
    says = []
    for place, size in needed.items():
        known = f"{size / GB:.0f} GB on the {place} and {free[place] / GB:.0f} GB are free"
        verdict = "yes: needs" if size <= free[place] else "NO: make room, it needs"
        says.append(f"{verdict} {known}")
    return says


def together(plans: Sequence[Plan], here: Machine) -> str:
    """What all of them download and need of the disk, each model and data set counted once."""
    models = {
        p.base.model.id if isinstance(p.base.model, HubBase) else p.base.name: p.weights
        for p in plans
    } | {p.metric.how: p.metric for p in plans if p.metric.bytes}
    data = {p.recipe.data: p for p in plans}
    weights = sum(known.bytes or 0 for known in models.values())
    raw = sum(p.raw.bytes or 0 for p in data.values())
    # Raw and prepared data are those of all their recipes; features and checkpoints are not.
    disk = sum(p.data_bytes for p in data.values()) + sum(p.own_bytes for p in plans)
    room = _room({"disk": disk, "cache": weights}, here)
    unknown = [name for name, p in data.items() if p.raw.bytes is None]
    without = f", without the unknown size of {', '.join(unknown)}" if unknown else ""
    download = f"together: download {(weights + raw) / GB:.1f} GB{without}"
    return "\n".join([download, *room])
