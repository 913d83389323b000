"""The narrator's world: football commentary in Brazilian Portuguese whose true probabilities are known.

`match.py` is the simulated match, `patterns.py` and `grammar.py` tell it in words, `passage.py` draws passages, and
`truth.py` computes the exact probability of every next word. `questions.py`, `answers.py`, `checker.py` and
`raters.py` are the people around it; `datasets.py` writes it all as TFDS datasets.
"""
