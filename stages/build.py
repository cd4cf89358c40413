"""Make or pin a base model: `python -m stages.build BASE`.

Either way `models/base/BASE/manifest.json` says what to load: a folder beside it, or a Hub id with
the commit that was found there. That is recorded in `metrics/base/BASE.json` as well.
"""

from functools import partial
from pathlib import Path

import typer

from src import config, provenance, recorded
from src.errors import UserError, one_line
from src.files import write_json
from src.hub import pin
from src.processes import spread
from src.schema import Base, HubBase, Params
from src.training import pretrain


def build(params: Params, spec: Base, before: str) -> None:
    make = pin if isinstance(spec.model, HubBase) else pretrain.make
    key = f"base.{spec.name}.{params.scale}"
    try:
        known = make(spec, Path("models/base") / spec.name, params.seed)
    except UserError as error:
        raise UserError(f"{config.PARAMS}: {key}: {error}") from None
    record = provenance.of(spec.model, known)
    for note in provenance.notes("base", spec.name, record):
        typer.echo(f"note: {config.PARAMS}: {key}: {note}", err=True)
    write_json(provenance.path("base", spec.name), record)
    recorded.check(before, f"build@{spec.name}")


@one_line
def main(base: str) -> None:
    before = config.text()
    params = config.load()
    spec = config.pick(params.base, base, "base")
    if isinstance(spec.model, HubBase):
        build(params, spec, before)
    else:
        spread(1, partial(build, params, spec, before))


if __name__ == "__main__":
    typer.run(main)
