"""A trained model as somebody who answers: messages and a seed in, text out."""

from collections.abc import Sequence

import jax

from model.chat import Message
from model.config import SamplingConfig
from model.decode import stream
from serve.rating import Answer
from train.trained import Trained


def answer_by(trained: Trained, sampling: SamplingConfig, max_tokens: int) -> Answer:
    """Answers of a model, asked through its chat template.

    Args:
        max_tokens: where an answer is cut that has not ended by then.

    Raises:
        UserError: a template that cannot be used.
    """
    tokenizer, template = trained.tokenizer, trained.template
    ends = {template.stop_token(tokenizer), tokenizer.document_end}

    def answer(messages: Sequence[Message], seed: int) -> str:
        prompt = [tokenizer.document_end, *template.encode(tokenizer, messages, answer=True).tokens]
        key = jax.random.key(seed)
        drawn = stream(trained.model, trained.params, prompt, sampling, key, max_tokens, stop=ends)
        return tokenizer.decode(token for token, _ in drawn if token not in ends).strip()

    return answer
