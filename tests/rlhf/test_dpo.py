"""DPO on a small transformer: against log-probabilities of answers alone, and against people with known tastes."""

from functools import partial

import jax
import numpy as np
import pytest

from model.chat import Message
from model.errors import UserError
from rlhf.config import DPOConfig
from rlhf.dpo import DPOTrainer, preference_loss
from rlhf.preferences import Pair, PromptGroup
from rlhf.reward import Comparer
from tests.rlhf.tiny import MODEL, TEMPLATE, TOKENIZER, fresh, same

CONFIG = DPOConfig(beta=0.5, steps=60, batch_size=8, learning_rate=3e-3)


def group(*answers, pairs=((0, 1),), prompt="?"):
    return PromptGroup((Message("user", prompt),), answers, tuple(Pair(*pair) for pair in pairs))


def comparer(groups, batch_size=CONFIG.batch_size):
    return Comparer(groups, TOKENIZER, TEMPLATE, 32, batch_size, seed=0)


@pytest.fixture(scope="module")
def params():
    return fresh()


@jax.jit
def log_softmax(params, ids):
    return jax.nn.log_softmax(MODEL.apply({"params": params}, ids[None])[0][0])


def of_answer(params, prompt, answer):
    """log p of an answer, its tokens one by one; what is behind them in the row no token can see."""
    begins = 1 + len(TEMPLATE.encode(TOKENIZER, prompt, answer=True).tokens)
    chat = TEMPLATE.encode(TOKENIZER, [*prompt, Message("assistant", answer)])
    ids = np.array([TOKENIZER.document_end, *chat.tokens])
    log_p = np.asarray(log_softmax(params, np.pad(ids, (0, 32 - len(ids)))))
    return sum(log_p[place - 1, ids[place]] for place in range(begins, len(ids)))


def test_the_loss_is_that_of_the_answers_alone(params):
    """What was asked takes no part, and neither does padding."""
    groups = [group("a", "bb", "cccc", pairs=((0, 1), (2, 1)), prompt="ab?"), group("dd", "e")]
    batch, other, margins = comparer(groups, 3).collate([0, 1]), fresh(seed=7), []
    for one in groups:
        moved = [of_answer(params, one.prompt, a) - of_answer(other, one.prompt, a) for a in one.answers]
        margins += [0.5 * (moved[pair.winner] - moved[pair.loser]) for pair in one.pairs]
    loss, found = jax.jit(partial(preference_loss, model=MODEL, beta=0.5))(params, other, batch)
    assert float(loss) == pytest.approx(np.mean(np.log1p(np.exp(-np.array(margins)))), rel=1e-4)
    assert float(found["margin"]) == pytest.approx(np.mean(margins), abs=1e-5)
    assert float(found["accuracy"]) == pytest.approx(np.mean(np.array(margins) > 0))


def test_at_the_reference_nothing_is_known_and_then_the_choices_are(params):
    """Whoever chooses likes answers with more a than b in them."""
    rng = np.random.default_rng(0)

    def answers():
        one, other = ("".join(rng.permutation(list("a" * n + "b" * (4 - n)))) for n in rng.permutation(5)[:2])
        return sorted((one, other), key=lambda text: -text.count("a"))

    groups = [group(*answers(), prompt=f"{letter}{end}?") for letter in "abcdefgh" for end in "abcdefgh"]
    learning, held_out = comparer(groups[:50]), comparer(groups[50:])
    trainer = DPOTrainer(MODEL, CONFIG, learning, params)
    state = trainer.initial(params)
    start = trainer.evaluate(state.params, held_out)
    assert start["loss"] == pytest.approx(np.log(2))
    assert (start["pairs"], start["accuracy"], start["margin"]) == (14, 0.5, 0)
    first = trainer.take_step(state, 1)
    assert first.metrics["loss"] == pytest.approx(np.log(2))
    state = first.state
    for number in range(2, CONFIG.steps + 1):
        state = trainer.take_step(state, number).state
    found = trainer.evaluate(state.params, held_out)
    assert found["accuracy"] == 1
    assert found["margin"] > 0.5
    assert found["loss"] < 0.5
    assert same(params, trainer.reference)


def test_held_out_choices_all_count_the_same(params):
    """In batches of whatever size, the last one not full."""
    groups = [group("a", "b", "c", pairs=((0, 1), (0, 2), (2, 1))), group("bb", "c"), group("d", "ee"), group("e", "f")]
    trainer = DPOTrainer(MODEL, CONFIG, comparer(groups), fresh(seed=3))
    one, other = (trainer.evaluate(params, comparer(groups, size)) for size in (4, 3))
    assert one["pairs"] == 6
    assert one == pytest.approx(other, rel=1e-5)


def test_values_out_of_range_are_refused():
    with pytest.raises(UserError, match=r"dpo.beta=0.0 must be a positive number"):
        DPOConfig(beta=0.0)
