"""From text to answers: a fine-tuned run, and talking to it."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.commands.chat import Talk
from model.chat import ChatTemplate, Message
from model.config import SamplingConfig
from serve.conversation import Conversation
from tests.experiments.narrador import kill_when_logged, last_json, narrador
from train.chats import open_chats
from train.trained import open_trained

# Chats with one right answer each, which two small layers can learn by heart in seconds.
COLOURS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}
CONFIG = """
base: char
model: {layers: 2, width: 48, heads: 2, mlp_width: 96, context_length: 64}
data: {sources: ["text:text.txt"], sequence_length: 64}
train: {steps: 20, batch_size: 4, log_every: 5, eval_every: 20, sample_every: 20, sample_tokens: 8, warmup_steps: 5,
        checkpoint_every: 10}
sft:
  data: {sources: ["jsonl:chats.jsonl"], validation_fraction: 0.1}
  train: {steps: 150, batch_size: 8, learning_rate: 0.01, log_every: 10, eval_every: 150, sample_every: 150,
          sample_tokens: 16, checkpoint_every: 25, warmup_steps: 5}
reward: {source: "jsonl:choices.jsonl", steps: 60, batch_size: 4, checkpoint_every: 10, validation_fraction: 0.2}
"""
RUN = ("run", "answers.yaml", "--stages", "pretrain,sft,reward", "--json")


def write(folder):
    (folder / "answers.yaml").write_text(CONFIG)
    (folder / "text.txt").write_text("".join(f"the {thing} is {colour}. " for thing, colour in COLOURS.items()) * 60)
    chats = [
        {"messages": [{"role": "user", "content": f"{thing}?"}, {"role": "assistant", "content": colour}]}
        for thing, colour in COLOURS.items()
    ]
    choices = [
        {"prompt": f"{thing}?", "ranking": [colour, *(other for other in COLOURS.values() if other != colour)][:3]}
        for thing, colour in COLOURS.items()
    ]
    (folder / "choices.jsonl").write_text("".join(json.dumps(choice) + "\n" for choice in choices))
    (folder / "chats.jsonl").write_text("".join(json.dumps(chats[n % 4]) + "\n" for n in range(202)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    write(folder)
    return folder, last_json(narrador(*RUN, cwd=folder))


def test_all_stages_are_done_and_reported(trained):
    folder, result = trained
    assert (result["stage"], result["steps"]) == ("pretrain", 20)
    assert (result["sft"]["stage"], result["sft"]["steps"]) == ("sft", 150)
    assert result["sft"]["validation_loss"] < 0.2
    report = (folder / "runs/answers/report.md").read_text()
    assert "## Learning to answer" in report
    assert "pictures/sft_loss.png" in report
    judged = result["reward"]
    assert (judged["stage"], judged["steps"], judged["pairs"] % 3) == ("reward", 60, 0)
    assert 0 <= judged["accuracy"] <= 1
    assert "ceiling" not in judged  # nobody knows what people's own choices allow
    assert "## What people choose" in report


def test_a_complete_stage_is_not_repeated(trained):
    folder, result = trained
    again = narrador(*RUN, cwd=folder)
    assert last_json(again) == result
    assert "compiling" not in again.stderr


def test_fine_tuning_begins_with_what_was_pretrained(trained, monkeypatch):
    """Its first evaluation is that of the pre-trained model, computed here chat by chat."""
    folder, _ = trained
    monkeypatch.chdir(folder)
    before = open_trained("runs/answers:pretrain")
    nats, count = 0.0, 0
    for chat in open_chats("jsonl:chats.jsonl", 0.1).validation:
        found = before.template.encode(before.tokenizer, chat)
        tokens = jnp.array([[before.tokenizer.document_end, *found.tokens]], jnp.int32)
        scores = jax.nn.log_softmax(before.model.apply({"params": before.params}, tokens)[0])[0]
        for place, (token, learned) in enumerate(zip(found.tokens, found.by_assistant, strict=True)):
            nats -= learned * float(scores[place, token])
            count += learned
    first = next(json.loads(line) for line in (folder / "runs/answers/sft/metrics.jsonl").open())
    assert (first["step"], first["validation_loss"]) == (0, pytest.approx(nats / count, rel=1e-5))
    assert (folder / "runs/answers/chat_template.jinja").read_text() == ChatTemplate().text


def test_fine_tuning_needs_a_complete_pretraining(tmp_path):
    write(tmp_path)
    done = narrador("run", "answers.yaml", "--stages", "sft", cwd=tmp_path)
    assert done.returncode == 2
    assert "begins with what 'pretrain' came to" in done.stderr
    done = narrador("run", "answers.yaml", "--stages", "pretrain, reward", cwd=tmp_path)
    assert done.returncode == 2
    assert "Try --stages pretrain,sft,reward." in done.stderr
    assert not (tmp_path / "runs").exists()
    done = narrador("run", "answers.yaml", "--stages", "pretrain,sfd", cwd=tmp_path)
    assert done.returncode == 2
    assert "Did you mean 'sft'?" in done.stderr


def test_stages_killed_are_the_same_as_undisturbed(trained, tmp_path):
    folder, result = trained
    write(tmp_path)
    kill_when_logged(*RUN, cwd=tmp_path, log="runs/answers/sft/metrics.jsonl", lines=8)
    kill_when_logged(*RUN, cwd=tmp_path, log="runs/answers/reward/metrics.jsonl", lines=3)
    again = last_json(narrador(*RUN, cwd=tmp_path))
    for name in ("sft/metrics", "sft/samples", "reward/metrics"):
        path = f"runs/answers/{name}.jsonl"
        assert (tmp_path / path).read_bytes() == (folder / path).read_bytes()
    unclocked = [{k: v for k, v in run["reward"].items() if k != "seconds"} for run in (result, again)]
    assert unclocked[0] == unclocked[1]


def test_a_reward_model_does_not_talk(trained):
    folder, _ = trained
    done = narrador("sample", "--run", "runs/answers:reward", cwd=folder)
    assert done.returncode == 2
    assert "unknown stage" in done.stderr
    # Without a stage the last one that writes text is taken.
    assert "blue" in talk(folder, "sky?", stage=None).stdout


def talk(folder, *lines, stage="sft"):
    asked = ("chat", "--run", "runs/answers" + (f":{stage}" if stage else ""), "--temperature", "0")
    return narrador(*asked, cwd=folder, stdin="\n".join(lines) + "\n")


def test_it_answers_what_it_was_taught(trained):
    folder, _ = trained
    done = talk(
        folder,
        "sky?",
        "/why",
        "/compare",
        "/system x",
        "/nonsense",
        "/top 0",
        "/top inf",
        "/temperature hot",
        "/quit",
        "no",
    )
    assert done.returncode == 0, done.stderr
    assert "blue" in done.stdout
    assert "<|turn_end|>" in done.stdout  # /why shows the token that ended the answer too
    assert "pretrain: " in done.stdout
    assert "sft: blue" in done.stdout
    assert "unknown command '/nonsense'" in done.stdout
    assert "/top 0 must be a whole number" in done.stdout
    assert "/temperature 'hot' is no number" in done.stdout


@pytest.fixture
def conversation(trained, monkeypatch):
    monkeypatch.chdir(trained[0])
    return Conversation(open_trained("runs/answers:sft"), SamplingConfig(temperature=0.0))


def test_history_is_kept_and_reasons_are_the_distributions(conversation):
    assert "".join(conversation.say("grass?")).strip() == "green"
    assert conversation.history == [Message("user", "grass?"), Message("assistant", "green")]
    assert "".join(chosen.text for chosen in conversation.reasons) == "green<|turn_end|>"
    for chosen in conversation.reasons:
        assert chosen.probability == chosen.likeliest[0][1] == 1.0  # greedy: all on the likeliest
        assert np.all(np.diff([probability for _, probability in chosen.likeliest]) <= 0)
    conversation.instruct("Be kind.")
    assert conversation.history == [Message("system", "Be kind.")]
    assert conversation.question is None


def test_what_was_asked_last_is_known_where_no_answer_came(conversation):
    """`/compare` asks every stage that, and not the question before."""
    "".join(conversation.say("grass?"))
    conversation._pieces = lambda: iter(["", " "])
    "".join(conversation.say("sky?"))
    assert conversation.history == [Message("user", "grass?"), Message("assistant", "green")]
    assert conversation.question == "sky?"
    other = conversation.with_model(conversation.trained)
    assert (other.history, other.question) == (conversation.history, None)
    assert "".join(other.say("sky?")).strip()


def test_ctrl_c_stops_an_answer_and_not_the_program(conversation, capsys):
    def impatient():
        yield "gre"
        raise KeyboardInterrupt

    conversation._pieces = impatient
    lines = iter(["grass?", "/quit"])
    Talk(conversation).loop(lambda: next(lines))
    assert "gre ..." in capsys.readouterr().out
    assert conversation.history[-1] == Message("assistant", "gre")


def test_a_passage_goes_before_every_question(conversation, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(Conversation, "say", lambda self, text: (asked.append(text), iter(()))[1])
    talk = Talk(conversation)
    talk.answer = lambda conversation, question: asked.append(question)
    lines = iter(["/about", "Quem fez o gol?", "/about O jogo acabou.", "Quem ganhou?"])
    talk.loop(lambda: next(lines, None))
    drawn = capsys.readouterr().out.strip()
    assert asked == [f"{drawn}\nQuem fez o gol?", "O jogo acabou.\nQuem ganhou?"]


def test_values_out_of_range_are_refused(tmp_path):
    for wrong in (("--tokens", "0"), ("--seed", "-1"), ("--temperature", "-1")):
        assert narrador("chat", *wrong, cwd=tmp_path).returncode == 2
    assert Path(tmp_path).exists()
