"""What knows the answer: the table of rules, read by hand. No devices but one: meshes are abstract."""

import functools
import math
import operator

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

from model.config import MESH_AXES, RULES, MeshConfig, ShardingRules
from model.errors import UserError
from model.sharding import check_used, constrain, logical_axes, make_mesh, partition_spec, state_shardings
from model.transformer import Transformer
from tests.model.families import FAMILIES, full_pass, model_and_parameters, random_tokens

every_family = pytest.mark.parametrize("family", FAMILIES)


def axes_and_shapes(family):
    boxed = jax.eval_shape(Transformer(FAMILIES[family]).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return logical_axes(boxed)["params"], nn.unbox(boxed)["params"]


def test_spec_maps_each_axis():
    rules = ShardingRules()
    assert partition_spec(rules, ("batch", "sequence")) == PartitionSpec(("data", "fsdp", "expert"), "context")
    assert partition_spec(rules, ("vocab", "embed")) == PartitionSpec("tensor", "fsdp")
    assert partition_spec(rules, ("layers", "embed", "heads", "head_dim")) == PartitionSpec(
        None, "fsdp", "tensor", None
    )
    assert partition_spec(rules, (None, "embed")) == PartitionSpec(None, "fsdp")
    assert partition_spec(rules, ()) == PartitionSpec()


@pytest.mark.parametrize(
    ("rules", "axes"),
    [
        (ShardingRules(embed=("tensor",)), ("embed", "mlp")),
        (ShardingRules(), ("heads", "kv_heads")),
        (ShardingRules(), ("batch", "embed")),  # batch is split over data and fsdp
    ],
)
def test_two_axes_on_one_mesh_axis_are_both_named(rules, axes):
    with pytest.raises(UserError) as caught:
        rules.split(axes)
    assert all(repr(axis) in str(caught.value) for axis in axes)


def test_an_unknown_axis_is_named():
    with pytest.raises(UserError, match=r"'embedd'.*embed"):
        ShardingRules().split(("embedd",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"embed": ("fdsp",)}, ["sharding.embed", "'fdsp'", "Did you mean 'fsdp'?"]),
        ({"batch": ("data", "fsdp", "data")}, ["sharding.batch", "twice"]),
    ],
)
def test_rules_name_mesh_axes_that_exist_and_each_once(changes, words):
    with pytest.raises(UserError) as caught:
        ShardingRules(**changes)
    assert all(word in str(caught.value) for word in words)


def test_devices_that_no_rule_gives_work_are_an_error():
    mesh = AbstractMesh((2, 1, 1, 4, 1), MESH_AXES)
    check_used(mesh, ShardingRules())
    with pytest.raises(UserError, match=r"mesh\.context=4.*'context'"):
        check_used(mesh, ShardingRules(sequence=(), residual=("tensor",)))


def test_each_set_of_rules_splits_more_of_what_is_stored():
    mesh = AbstractMesh((1, 2, 1, 2, 2), MESH_AXES)
    axes, shapes = axes_and_shapes("gpt2")
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct([8 * size for size in x.shape], x.dtype), shapes)
    stored = {}
    for name, rules in RULES.items():
        placed = state_shardings(mesh, rules, axes, shapes)
        query = ("layers", "attention", "query")
        sharding, whole = (functools.reduce(operator.getitem, query, tree) for tree in (placed, shapes))
        stored[name] = math.prod(sharding.shard_shape(whole.shape)) / math.prod(whole.shape)
    assert stored == {"tensor": 1 / 2, "fsdp+tensor": 1 / 4, "fsdp+context+tensor": 1 / 8}


def test_make_mesh_on_one_device():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    assert mesh.axis_names == MESH_AXES
    assert dict(mesh.shape) == dict.fromkeys(MESH_AXES, 1)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (MeshConfig(data=3), ["data=3", "1 devices"]),
        (MeshConfig(data=-1, tensor=2), ["tensor=2", "1 devices"]),
        (MeshConfig(data=-1, fsdp=-1), ["at most one", "fsdp=-1"]),
        (MeshConfig(data=0), ["at least 1", "data=0"]),
        (MeshConfig(tensor=-2), ["at least 1", "tensor=-2"]),
    ],
)
def test_a_mesh_that_does_not_fit_is_an_error(config, words):
    with pytest.raises(UserError) as caught:
        make_mesh(config, jax.devices()[:1])
    assert all(word in str(caught.value) for word in words)


def test_constrain_without_a_mesh_does_nothing():
    x = jnp.ones((2, 3))
    assert constrain(x, ShardingRules(), "batch", "sequence") is x


def test_constrain_leaves_whole_what_does_not_divide():
    rules, seen = ShardingRules(), []

    def body(x):
        x = constrain(x, rules, "batch", "residual", None)
        jax.debug.inspect_array_sharding(x, callback=seen.append)
        return x

    with jax.set_mesh(make_mesh(MeshConfig(data=1, context=2))):
        for shape in ((1, 4, 3), (1, 1, 3)):
            jax.jit(body)(jnp.ones(shape)).block_until_ready()
    assert [sharding.shard_shape(shape) for sharding, shape in zip(seen, ((1, 4, 3), (1, 1, 3)), strict=True)] == [
        (1, 2, 3),
        (1, 1, 3),
    ]


@every_family
def test_every_parameter_names_every_dimension(family):
    axes, shapes = axes_and_shapes(family)
    pairs = jax.tree.map(
        lambda names, shape: (names, shape), axes, shapes, is_leaf=lambda leaf: isinstance(leaf, tuple)
    )
    for names, shape in jax.tree.leaves(pairs, is_leaf=lambda leaf: isinstance(leaf, tuple)):
        assert len(names) == len(shape.shape)
        ShardingRules().split(names)
    assert axes["layers"]["mlp"]["up"] == ("layers", "embed", "mlp")


def test_optimizer_moments_are_split_like_their_parameters_and_counters_are_whole():
    axes, shapes = axes_and_shapes("llama")
    mesh = AbstractMesh((1, 2, 1, 1, 2), MESH_AXES)
    state = {"params": shapes, "opt": jax.eval_shape(optax.adam(1e-3).init, shapes)}
    placed = state_shardings(mesh, ShardingRules(vocab=()), axes, state)
    adam = placed["opt"][0]
    assert adam.count == NamedSharding(mesh, PartitionSpec())
    assert adam.mu == adam.nu == placed["params"]
    query = placed["params"]["layers"]["attention"]["query"]
    assert query.spec == PartitionSpec(None, "fsdp", "tensor", None)


def test_a_dimension_that_does_not_divide_names_array_and_axis():
    axes, shapes = axes_and_shapes("llama")  # 61 rows of embedding do not divide by 2
    with pytest.raises(UserError) as caught:
        state_shardings(AbstractMesh((1, 1, 1, 1, 2), MESH_AXES), ShardingRules(), axes, {"params": shapes})
    for word in ("params.embedding", "'vocab'", "61", "60", "62", "2 devices"):
        assert word in str(caught.value)


def test_a_mesh_of_one_device_changes_no_logit():
    model, params = model_and_parameters(FAMILIES["llama"])
    tokens = random_tokens(2, 8)
    plain = full_pass(model, params, tokens)
    with jax.set_mesh(make_mesh(MeshConfig(), jax.devices()[:1])):
        np.testing.assert_allclose(full_pass(model, params, tokens), plain, atol=1e-6)
