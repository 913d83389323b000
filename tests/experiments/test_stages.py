"""All stages of a small run on a user's own files, and a second run that another one's reward model judges."""

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout

import pytest
import yaml

from experiments import cli
from experiments.learned_reward import judge_for, load_reward_model
from model.errors import UserError
from train.run_directory import RunDirectory
from train.trained import load, open_language, open_trained

CONFIG = """
base: char
model: {layers: 1, width: 16, heads: 2, mlp_width: 32, context_length: 48}
data: {sources: ["text:text.txt"], sequence_length: 32}
train: {steps: 2, batch_size: 4, eval_every: 2, eval_batches: 1, sample_every: 2, sample_tokens: 2, warmup_steps: 1}
sft:
  data: {sources: ["jsonl:chats.jsonl"]}
  train: {steps: 2, batch_size: 4, eval_every: 2, eval_batches: 1, sample_every: 2, sample_tokens: 2, warmup_steps: 1}
reward: {source: "jsonl:choices.jsonl", steps: 2, batch_size: 4, validation_fraction: 0.2, heads: 2}
ppo: {prompts: "jsonl:prompts.jsonl", steps: 2, batch_size: 8, minibatches: 2, accumulation: 2, max_tokens: 4}
grpo: {prompts: "jsonl:prompts.jsonl", steps: 2, batch_size: 8, group_size: 4, ensemble: min, max_tokens: 4,
       ptx_coefficient: 0}
dpo: {steps: 2, batch_size: 4, log_every: 1}
"""
THINGS = {"sky": "blue", "grass": "green", "snow": "white", "coal": "black"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    (folder / "own.yaml").write_text(CONFIG)
    (folder / "text.txt").write_text("".join(f"the {thing} is {colour}. " for thing, colour in THINGS.items()) * 60)

    def lines(name, records):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))

    turns = [({"role": "user", "content": f"{a}?"}, {"role": "assistant", "content": b}) for a, b in THINGS.items()]
    lines("chats.jsonl", [{"messages": turns[number % 4]} for number in range(42)])
    lines("choices.jsonl", [{"prompt": f"{a}?", "chosen": b, "rejected": "no"} for a, b in THINGS.items()])
    lines("prompts.jsonl", [{"prompt": f"{thing}?"} for thing in THINGS])
    return folder


def run(folder, *arguments):
    """The result of `narrador run own.yaml ARGUMENTS`, or what it says."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setattr("experiments.machine.prepare_jax", lambda *_: None)  # the test session has its own way
        code = cli.main(["run", "own.yaml", *arguments])
    said = out.getvalue() + err.getvalue()
    if "--json" not in arguments:
        return said
    assert code == 0, said
    return json.loads(out.getvalue().splitlines()[-1])


@pytest.fixture(scope="module")
def learned(folder):
    """All stages done in runs/own."""
    return run(folder, "--stages", "pretrain,sft,reward,ppo,grpo,dpo", "--json")


def test_at_last_the_policy_is_held_against_the_model_that_it_began_as(folder, learned):
    found = run(folder, "--stages", "pretrain,compare", "--json")["compare"]
    assert found["prompts"] == len(THINGS)
    assert found["judge"] == "reward:runs/own"
    assert found["reward_model_accuracy"] == learned["reward"]["accuracy"]
    assert found["win_rate_interval"][0] <= found["win_rate"] <= found["win_rate_interval"][1]
    assert "## Before and after" in (folder / "runs/own/report.md").read_text()
    assert "compare: Judged by the reward model of runs/own" in run(folder, "--stages", "compare")


def test_every_stage_learns_and_what_it_learned_can_be_opened(folder, learned):
    assert learned["stage"] == "pretrain"
    assert all(learned[name]["steps"] == 2 for name in ("sft", "reward", "ppo", "grpo", "dpo"))
    for name in ("ppo", "grpo", "dpo"):
        before = learned[name]["base_bits_per_byte_before"]
        assert learned[name]["base_bits_per_byte"] == pytest.approx(before, rel=0.1)
        assert open_trained(f"{folder}/runs/own:{name}").step == 2
    assert {"reward", "kl", "stop_rate"} < learned["grpo"].keys()
    assert learned["dpo"]["pairs"] == 1
    told = run(folder, "--stages", "grpo,dpo")  # complete: nothing is done again
    assert "grpo: reward " in told
    assert "dpo: right on " in told


def test_parts_of_a_batch_are_evaluated_one_by_one_on_the_same_text(folder, learned):
    """What trains only in parts could not evaluate a whole batch at once; the losses are the same."""
    parts = run(folder, "--run-dir", "runs/parts", "--stages", "pretrain", "--train.accumulation", "2", "--json")
    assert parts["validation_loss"] == pytest.approx(learned["validation_loss"], rel=1e-4)


def test_chats_that_were_refused_may_be_mended(folder):
    chats = (folder / "chats.jsonl").read_text().splitlines(keepends=True)
    (folder / "few.jsonl").write_text("".join(chats[:2]))
    asked = ("--run-dir", "runs/mended", "--stages", "pretrain,sft", "--sft.data.sources", "jsonl:few.jsonl")
    asked += ("--sft.data.validation-fraction", "0.5")
    assert "fewer than one row" in run(folder, *asked)
    (folder / "few.jsonl").write_text("".join(chats))
    assert run(folder, *asked, "--json")["sft"]["steps"] == 2


@pytest.mark.usefixtures("learned")
def test_another_runs_reward_model_judges_if_it_reads_the_same_tokens(folder):
    """It is smaller than the policy, and the critic with it; a run that has none of its own needs no stage for it."""

    def larger(judge, stages, *others):
        asked = ("--run-dir", "runs/larger", "--model.width", "32", "--ppo.reward-run", judge)
        return run(folder, *asked, "--stages", stages, *others)

    assert "Try --stages pretrain,sft,ppo." in larger("runs/own", "pretrain,ppo")
    assert "holds no run" in larger("runs/nowhere", "pretrain,sft,ppo")
    assert not list((folder / "runs/larger").glob("*/metrics.jsonl"))
    assert larger("runs/own", "pretrain,sft,ppo", "--json")["ppo"]["steps"] == 2
    assert not (folder / "runs/larger/reward").exists()
    assert larger("runs/own", "compare", "--json")["judge"] == "reward:runs/own"
    # Half done, it goes on with the same reward model only.
    (folder / "runs/larger/ppo/result.json").unlink()
    shutil.copytree(folder / "runs/own", folder / "runs/other")
    assert "ppo.reward_run: 'runs/own' there, 'runs/other' now" in larger("runs/other", "ppo")
    result = folder / "runs/own/reward/result.json"
    before = result.read_text()
    result.write_text(json.dumps({**json.loads(before), "seconds": 0.0}))  # as if it had been trained again
    assert "ppo reward model changed since" in larger("runs/own", "ppo")
    result.write_text(before)
    # A run whose turns are written otherwise.
    template = folder / "runs/other/chat_template.jinja"
    template.write_text(template.read_text() + " ")
    policy = load(RunDirectory(folder / "runs/own"), "sft")
    with pytest.raises(UserError, match=r"runs/other' cannot judge .*runs/own' writes: their chat templates differ"):
        judge_for(policy, RunDirectory(folder / "runs/other"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--reward.source", "narration_answers:0"),
            "'narration_answers:0': narration_answers needs at least 1 example",
        ),
        (("--ppo.prompts", "narration_chat:many"), "write narration_chat[:EXAMPLES[:SEED]]"),
        (("--sft.data.sources", "jsonl:chat.jsonl"), "no file matches 'chat.jsonl'"),
        (("--sft.data.sources", "text:text.txt"), "unknown source of stage 'sft' 'text:text.txt'"),
        (("--reward.source", "stor:x"), "unknown source of stage 'reward' 'stor:x'. Did you mean 'store:PATH'?"),
        (("--reward.source", "store:none.sqlite"), "there is no file 'none.sqlite'"),
        (("--ppo.prompts", "narration_preferences:9"), "unknown source of stage 'ppo' 'narration_preferences:9'"),
        (("--ppo.max-tokens", "48"), "ppo.max_tokens=48 leaves no room for a prompt in model.context_length=48"),
    ],
)
def test_what_a_later_stage_cannot_read_is_refused_before_any_work(folder, words, told):
    assert told in run(folder, "--run-dir", "runs/none", "--stages", "pretrain,sft,reward,ppo", *words)
    assert not (folder / "runs/none").exists()


@pytest.mark.usefixtures("learned")
def test_a_model_that_cannot_read_what_is_asked_is_not_rated(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr("experiments.machine.prepare_jax", lambda *_: None)
    for words, told in (
        (("runs/own:pretrain",), "has not learned to take turns"),
        (("runs/own:sft", "--tokens", "47"), "has a context of 48 tokens; the longest prompt takes"),
    ):
        assert cli.main(["rate", "--prompts", "jsonl:prompts.jsonl", "--store", "kept.sqlite", "--run", *words]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.usefixtures("learned")
def test_a_choice_that_does_not_fit_the_context_is_refused_whatever_rows_are_allowed(folder):
    choice = {"prompt": "sky? " * 12, "chosen": "blue", "rejected": "green"}
    (folder / "long.jsonl").write_text(
        "".join(json.dumps({**choice, "prompt": f"{n}{choice['prompt']}"}) + "\n" for n in "ab")
    )
    shutil.copytree(folder / "runs/own", folder / "runs/long", ignore=shutil.ignore_patterns("reward", "config.yaml"))
    config = yaml.safe_load((folder / "runs/own/config.yaml").read_text())
    config["reward"]["source"] = "jsonl:long.jsonl"
    (folder / "runs/long/config.yaml").write_text(yaml.safe_dump(config))
    told = run(folder, "--run-dir", "runs/long", "--reward.source", "jsonl:long.jsonl", "--stages", "reward")
    assert "tokens with its prompt; reward.length, or the model's context, is 48" in told


@pytest.mark.usefixtures("learned")
def test_a_stage_without_a_checkpoint_hides_no_earlier_one(folder):
    shutil.copytree(folder / "runs/own", folder / "runs/begun", ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copytree(folder / "runs/own/sft/checkpoints", folder / "runs/begun/sft/checkpoints")
    assert open_trained(f"{folder}/runs/begun").stage == "sft"
    with pytest.raises(UserError, match=r"no checkpoint under .*ppo"):
        open_trained(f"{folder}/runs/begun:ppo")


@pytest.mark.usefixtures("learned")
def test_a_checkpoint_of_another_architecture_is_refused_by_field(folder):
    assert "model.width: 16 there, 32 now" in run(folder, "--model.width", "32", "--stages", "ppo")
    own = RunDirectory(folder / "runs/own")
    before = own.config_path.read_text()
    for changes, told in (
        ({"width": 32}, "model.width: 16 there, 32 now"),
        ({"layers": 3}, "model.layers: 1 there, 3 now"),
        ({"tied_head": False}, "parameter head: none there"),
        ({"norm_position": "post"}, "parameter final_norm.scale: none now"),
        ({"positions": "learned"}, "parameter position_embedding: none there"),
        ({"experts": 2}, r"parameter layers.mlp.down: \[1, 32, 16\] there, \[1, 2, 32, 16\] now"),
    ):
        config = yaml.safe_load(before)
        own.config_path.write_text(yaml.safe_dump({**config, "model": {**config["model"], **changes}}))
        with pytest.raises(UserError, match=told):
            load(own, "sft")
        with pytest.raises(UserError, match=told):
            load_reward_model(own, open_language(own)[0])
    own.config_path.write_text(before)


@pytest.mark.usefixtures("learned")
def test_a_run_of_an_older_version_goes_on_with_the_defaults_of_what_that_did_not_know(folder):
    own = RunDirectory(folder / "runs/own")
    before = own.config_path.read_text()
    config = yaml.safe_load(before)
    del config["ppo"]["clip"], config["mesh"]
    own.config_path.write_text(yaml.safe_dump(config))
    assert "dpo: right on " in run(folder, "--stages", "dpo")
    assert "ppo.clip: 0.2 there, 0.3 now" in run(folder, "--stages", "dpo", "--ppo.clip", "0.3")
    own.config_path.write_text(before)
