"""`captioner schema`: the JSON schema of params.yaml."""

import json


def schema() -> None:
    """Print the JSON schema of params.yaml, with which editors complete and check the file."""
    from pipeline.params import schema as make

    print(json.dumps(make(), indent=2))
