"""What a process does with the memory that it frees."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """This process keeps what it frees for what it needs next: each step of a training or a search asks for the
    same again.

    By itself the C library of Linux gives pieces of megabytes back, and the system fills them with zeros anew.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(_MMAP_THRESHOLD, 2**25)
