"""Eight devices equal one, whatever the mesh; the program in `eight_devices` measures, here is what it must find."""

import json
import subprocess
import sys

import pytest
from jax.sharding import AbstractMesh

from model.config import MESH_AXES, ShardingRules
from model.errors import UserError
from tests.train.eight_devices import MESHES
from train.config import TrainConfig
from train.loop import check_batch_divides

# Into how many pieces matrices and norm scales are cut, by hand: matrices by all that splits parameters or heads, norms
# by what splits the width. What is not listed is whole on purpose. The last three have experts, cut by their axis too.
PIECES = {
    "fsdp": ([8], 8),
    "data, tensor": ([2], 1),
    "data, fsdp, tensor": ([4], 2),
    "fsdp, context": ([8], 8),
    "context, tensor": ([2], 1),
    "expert, context, tensor": ([2], 1),
    "fsdp, expert": ([2, 8], 2),
    "data, expert, tensor": ([1, 2, 4], 1),  # the router reads the width, which only fsdp splits
    "fsdp, expert, context": ([4, 8], 4),
}


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-m", "tests.train.eight_devices"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", MESHES)
def test_loss_gradients_and_updates_equal_one_device(found, name):
    assert max(found[name]["differences"]) < 1e-5


@pytest.mark.parametrize("name", MESHES)
def test_no_parameter_or_moment_is_whole_that_the_rules_split(found, name):
    matrices, norms = PIECES[name]
    assert found[name]["pieces"] == {"matrices": matrices, "norms": [norms]}


def test_the_same_answers_are_drawn_on_a_mesh(found):
    there = found["answers"]
    assert there["same"]
    assert there["log_probs"] < 1e-5
    assert min(there["lengths"]) < 6  # an answer that stopped early was among them


def test_one_prompt_is_answered_by_experts_on_a_mesh(found):
    assert found["routed"]


def test_the_cache_is_split_by_rows_and_heads(found):
    assert found["answers"]["cache"] == [2, 1, 2, 8, 4]  # layers, 4 rows / 4, 4 heads / 2, slots, head dimension


@pytest.mark.parametrize(
    ("train", "length", "words"),
    [
        ({"batch_size": 6}, 16, ["train.batch_size=6", "4 devices", "data x fsdp x expert", "are 4 and 8"]),
        ({"batch_size": 4, "accumulation": 2}, 16, ["batch_size=4 in train.accumulation=2", "4 devices", "can is 8"]),
        ({"batch_size": 8}, 15, ["data.sequence_length=15", "2 devices", "(context)", "are 14 and 16"]),
        ({"batch_size": 8}, 14, ["data.sequence_length=14", "4 devices", "context x tensor", "are 12 and 16"]),
    ],
)
def test_what_cannot_be_split_is_named_with_what_can(train, length, words):
    mesh = AbstractMesh((2, 2, 1, 2, 2), MESH_AXES)
    check_batch_divides(TrainConfig(batch_size=8, accumulation=2), 16, mesh, ShardingRules())
    with pytest.raises(UserError) as caught:
        check_batch_divides(TrainConfig(**train), length, mesh, ShardingRules())
    assert all(word in str(caught.value) for word in words)
