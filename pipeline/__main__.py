"""`python -m pipeline STAGE`, the commands of dvc.yaml: they run the code of the current folder."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
