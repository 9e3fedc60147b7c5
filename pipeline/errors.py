"""The errors that people see: one tree, and each class knows the exit code of the command that it ends.

A message says what happened, where, and what to do. The command line prints it after ``error:`` without a traceback.
"""


class CaptionerError(Exception):
    """What the user can mend. Anything that is not one of these is a defect of ours and keeps its traceback."""

    exit_code = 1


class ParamsError(CaptionerError):
    """A command's usage or a value in params.yaml is wrong."""

    exit_code = 2


class DataError(CaptionerError):
    """Captions or pictures cannot be used."""

    exit_code = 3


class ArtefactError(CaptionerError):
    """A file that we wrote (features, vocabulary, model) is damaged or does not fit the other ones."""

    exit_code = 4


class DiskError(CaptionerError):
    """A file cannot be written or read: no space, no permission, something else in its place."""

    exit_code = 5


class NumericError(CaptionerError):
    """A loss or a feature is not a finite number."""

    exit_code = 6


class PeerError(CaptionerError):
    """Another process of the same work has ended or does not answer."""

    exit_code = 7
