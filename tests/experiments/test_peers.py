"""Peers: what is missing is said, and a small shape is measured with every response whole."""

import sys
from dataclasses import replace

import pytest

from experiments.peers import PpoShape, TrlPpo
from model.errors import UserError

SMALL = PpoShape(layers=1, width=16, heads=2, vocabulary=20, prompt_length=4, response_length=3, batch=4, epochs=2)


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl.experimental.ppo", None)
    with pytest.raises(UserError, match=r"pip install 'narrador\[bench\]'"):
        TrlPpo(SMALL)


@pytest.mark.parametrize(("name", "value"), [("batch", 0), ("heads", 3), ("minibatches", 5)])
def test_a_shape_that_cannot_be_is_refused(name, value):
    with pytest.raises(UserError, match=f"{name}={value}"):
        PpoShape(**{name: value})


@pytest.mark.parametrize("minibatches", [1, 2])
def test_trl_does_the_whole_work(minibatches, monkeypatch, capsys):
    pytest.importorskip("trl")
    from trl.experimental.ppo import ppo_trainer

    responses, steps, generate = [], [], ppo_trainer.generate

    def record(*arguments):
        tokens, logits = generate(*arguments)
        responses.append(tokens[:, SMALL.prompt_length :])
        return tokens, logits

    monkeypatch.setattr(ppo_trainer, "generate", record)
    peer = TrlPpo(replace(SMALL, minibatches=minibatches))
    optimizer = peer._trainer.optimizer.optimizer
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    assert peer.device in ("cpu", "cuda")
    assert peer.versions["trl"] == "1.12.0"
    peer.warm_up()
    assert peer.episodes_per_second(1) > 0
    assert len(steps) == 3 * SMALL.epochs * minibatches
    assert [tuple(tokens.shape) for tokens in responses] == [(SMALL.batch, SMALL.response_length)] * 3
    assert all(tokens.max() < SMALL.vocabulary for tokens in responses)
    assert capsys.readouterr().out == ""
