"""Reads a small output of another revision: a commit, branch, tag or DVC experiment."""

from pathlib import Path

from pipeline.errors import DataError, ParamsError

WORKSPACE = "workspace"
"""DVC's name for the files in the working folder."""


def read_output(revision: str, path: Path) -> str:
    """The text of `path` in `revision` of the repository that holds the working folder.

    Raises `ParamsError` when there is no such revision, `DataError` when the revision has no such file.
    """
    if revision == WORKSPACE:
        try:
            return path.read_text(encoding="utf-8")
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}; run `dvc repro` first") from error
    import dvc.api
    from dvc.exceptions import DvcException, PathMissingError
    from dvc.scm import RevError, SCMError
    from scmrepo.exceptions import SCMError as GitError

    try:
        return str(dvc.api.read(path.as_posix(), rev=revision, encoding="utf-8"))
    except RevError as error:
        raise ParamsError(
            f"{revision}: neither a file nor a revision; give a file, a commit, a branch, `{WORKSPACE}` or an "
            "experiment that `dvc exp show` lists"
        ) from error
    except (SCMError, GitError) as error:
        raise ParamsError(f"{revision}: no such file, and no git repository with commits: {error}") from error
    except (PathMissingError, FileNotFoundError) as error:
        raise DataError(f"{path}: not in revision {revision}; run `dvc repro score` there and commit it") from error
    except DvcException as error:
        raise DataError(f"{path} of revision {revision}: cannot be read: {error}") from error
