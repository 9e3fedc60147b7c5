"""Runs docs/tutorial.ipynb from top to bottom and saves its outputs.

python docs/run_tutorial.py [--check]   --check: run it with two epochs of training, without saving
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent / "tutorial.ipynb"


def main(*, save: bool) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if not save:
        (cell,) = (cell for cell in notebook.cells if '"epochs": 22' in cell.source)
        cell.source = cell.source.replace('"epochs": 22', '"epochs": 2')
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    if not save:
        return
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which change with each run
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    main(save=not parser.parse_args().check)
