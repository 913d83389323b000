"""The narrator's world: football commentary in Brazilian Portuguese whose true probabilities are known.

`match.py` is the simulated match, `patterns.py` and `grammar.py` tell it in words, `passage.py` draws passages, and
`truth.py` computes the exact probability of every next word. `questions.py`, `answers.py` and `raters.py` are the
people around it. `checker.py` decides what an answer asserts and whether it is true, by the statements that
`reading.py` finds with the patterns of `claims.py`. `datasets.py` writes it all as TFDS datasets.
"""
