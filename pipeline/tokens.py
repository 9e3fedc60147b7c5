"""Special tokens: the first four numbers of every vocabulary."""

PAD, BOS, EOS, UNK = range(4)

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Padding, begin of caption, end of caption, and any token that is not in the vocabulary."""
