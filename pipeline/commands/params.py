"""`captioner params` completes a params.yaml that holds differences only; `captioner schema` prints its JSON schema."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import paths
from pipeline.commands.terminal import show, show_json

EDITORS = "# yaml-language-server: $schema=params.schema.json"
"""The line by which editors find the schema."""


def params(
    file: Annotated[Path, typer.Argument(help="A params file, e.g. a recipe of docs/recipes.")] = paths.PARAMS,
) -> None:
    """Print all parameters of a file with the defaults filled in, as a params.yaml."""
    from pipeline.params_file import read_params, to_yaml

    show(EDITORS, *to_yaml(read_params(file)).rstrip("\n").split("\n"))


def schema() -> None:
    """Print the JSON schema of params.yaml, with which editors complete and check the file."""
    from pipeline.params import schema as make

    show_json(make(), indent=2)
