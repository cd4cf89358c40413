"""Make or pin a base model: `python -m stages.build BASE`.

Either way `models/base/BASE/manifest.json` says what to load: a folder beside it, or a Hub id with
the commit that was found there.
"""

from functools import partial
from pathlib import Path

import typer

from src import config
from src.errors import UserError, one_line
from src.files import write_json
from src.processes import spread
from src.schema import Base, HubBase, Params


def build(params: Params, spec: Base) -> None:
    if isinstance(spec.model, HubBase):
        from src.hub import pin as make
    else:
        from src.training.pretrain import make
    folder = Path("models/base") / spec.name
    try:
        known = make(spec, folder, params.seed)
    except UserError as error:
        key = f"base.{spec.name}.{params.scale}"
        raise UserError(f"{config.PARAMS}: {key}: {error}") from None
    write_json(Path("metrics/base") / f"{spec.name}.json", known)


@one_line
def main(base: str) -> None:
    params = config.load()
    spec = config.pick(params.base, base, "base")
    if isinstance(spec.model, HubBase):
        build(params, spec)
    else:
        spread(1, partial(build, params, spec))


if __name__ == "__main__":
    typer.run(main)
