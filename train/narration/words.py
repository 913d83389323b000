"""Words as the world's tokenizer cuts them: a run of letters, digits or marks, with the space before it."""

import re

# GPT-2's rule (Radford et al. 2019) without its English contractions; here an underscore is a mark.
_WORD = re.compile(r" ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+")


def split_words(text: str) -> list[str]:
    """The words of a text; joined they are the text."""
    return _WORD.findall(text)
