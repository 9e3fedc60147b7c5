"""The errors that users see: one tree, in which each class has the exit code of the command that it ends.

A message states what happened, where, and what to do. The command line prints it after `error:` without a traceback.
"""


class CaptionerError(Exception):
    """An error that the user can correct. All other exceptions are bugs and keep their traceback."""

    exit_code = 1


class ParamsError(CaptionerError):
    """A command is used wrongly, or a value in params.yaml is not allowed."""

    exit_code = 2


class DataError(CaptionerError):
    """Captions or images cannot be used."""

    exit_code = 3


class ArtefactError(CaptionerError):
    """A generated file (features, vocabulary, model) is damaged or does not match the others."""

    exit_code = 4


class DiskError(CaptionerError):
    """A file cannot be written or read: no space, no permission, or a folder in its place."""

    exit_code = 5


class NumericError(CaptionerError):
    """A loss or a feature is not finite."""

    exit_code = 6


class PeerError(CaptionerError):
    """Another process ended, does not respond or cannot be started."""

    exit_code = 7
