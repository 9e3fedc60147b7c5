"""`captioner schema`: the JSON schema of params.yaml."""

from pipeline.commands.terminal import show_json


def schema() -> None:
    """Print the JSON schema of params.yaml, with which editors complete and check the file."""
    from pipeline.params import schema as make

    show_json(make(), indent=2)
