"""One module per DVC stage: explicit paths and its section of the params in, a small report out.

A stage knows nothing of DVC, the terminal or the environment; it writes exactly the outputs that it is given.
"""
