"""`captioner schema`: what editors check params.yaml with."""

import json


def schema() -> None:
    """Print the JSON schema of params.yaml, from which editors complete and check it."""
    from pipeline.params import schema as make

    print(json.dumps(make(), indent=2))
