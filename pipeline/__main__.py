"""`python -m pipeline STAGE`: what dvc.yaml runs, since it imports the code of the folder that it stands in."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
