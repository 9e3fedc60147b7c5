"""The largest values of options of beam search and sampling. This module imports nothing, for a fast `--help`."""

MAX_BEAM_SIZE = 100
"""Larger beams lower scores (E. Cohen and J. C. Beck, ICML 2019), and memory grows with the beam."""
MAX_LENGTH = 1000
"""Tokens of the longest caption that a search may be asked for."""
