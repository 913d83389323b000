"""Many runs in one program: the loop of `train.loop`, mapped over the runs' parameters, optimizer state and numbers.

Each run lies whole on one device, whatever its own mesh is, and the runs are spread evenly over devices.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from model.attention import KVCache, init_cache
from model.config import MeshConfig, SamplingConfig, ShardingRules
from model.decode import choose, decode_step, prefill
from model.sharding import make_mesh
from model.transformer import Transformer
from train.batches import Batch, prefetch
from train.config import TrainConfig
from train.loop import Session, StopRequest, begin, fit
from train.objective import next_token_loss
from train.optimizer import hyperparameters
from train.record import Diverged, Enough, Record, Workbench
from train.step import RUNS, TrainState, abstract_state, batch_sharding, compile_step, place

WHOLE = ShardingRules(**{axis: () for axis in vars(ShardingRules())})  # nothing is split


def fit_together(benches: Sequence[Workbench], stop: StopRequest) -> list[dict[str, Any] | Diverged | Enough]:
    """Train runs that differ in nothing but numbers, seed and directory, each as `fit` does alone.

    Those that stand at the same step train in one program; a kill may leave them at two. One that diverges rests from
    then on, leaves the others alone, and is given back as what `fit` would raise.
    """
    if len(benches) == 1:
        return [_outcome(lambda: fit(benches[0], stop))]
    records, waiting = [], defaultdict(list)
    try:
        for bench in benches:
            bench = replace(bench, mesh=one_device(), rules=WHOLE, model=bench.model.clone(rules=WHOLE))
            record, state = begin(bench)
            records.append(record)
            waiting[record.counts.step].append((record, jax.device_get(state)))
        for group in waiting.values():
            session = _Lanes([record for record, _ in group])
            session.run(session.side_by_side([state for _, state in group]), stop)
        return [_outcome(record.result) for record in records]
    finally:
        for record in records:
            record.close()


def _outcome(learn: Callable[[], dict[str, Any]]) -> dict[str, Any] | Diverged | Enough:
    try:
        return learn()
    except (Diverged, Enough) as why:
        return why


class _Lanes(Session):
    """A turn of several runs at the same step: everything has a leading axis of runs."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__(records, mesh_of(len(records)))
        self.numbers = _stack([hyperparameters(record.bench.config) for record in records])
        self.along = NamedSharding(self.mesh, PartitionSpec(RUNS))
        self.seeds = [record.bench.config.seed for record in records]

    def side_by_side(self, states: Sequence[TrainState]) -> TrainState:
        """The runs' states, from the host, as one."""
        return place(_stack(states), self.along)

    def of_each(self, tree: Any) -> list[Any]:
        """Each run's part, on the host: from there Orbax writes many small arrays faster."""
        host = jax.device_get(tree)
        return [jax.tree.map(lambda x, lane=lane: x[lane, ...], host) for lane in range(len(self.records))]

    def batches(self, start: int) -> Iterator[list[Batch]]:
        """Those of the same seed have the same one."""
        streams = {
            seed: prefetch(record.bench.training, start) for seed, record in zip(self.seeds, self.records, strict=True)
        }
        while True:
            drawn = {seed: next(stream) for seed, stream in streams.items()}
            yield [drawn[seed] for seed in self.seeds]

    def place(self, own: Sequence[Batch]) -> Batch:
        if len(set(self.seeds)) == 1:
            return place(own[0], self.sharding)
        return place(_stack(own), self.along)

    def nats(self, params: Any, batch: Batch) -> Array:
        return _nats(self.model, params, batch, self.config.vocab_chunk)

    def sample(self, params: Any) -> None:
        prompt, config = self.records[0].bench.prompt, self.config
        said: Sequence[Iterable[int]]
        if len(prompt) + config.sample_tokens > self.model.config.context_length:  # a part is forgotten on the way
            each = jax.device_put(self.of_each(params))
            said = [record.say(own) for record, own in zip(self.records, each, strict=True)]
        else:
            seeds, step = place(np.array(self.seeds), self.along), self.records[0].counts.step
            tokens = np.array(prompt, np.int32)
            said = np.asarray(_say(self.model, params, tokens, seeds, step, config.sample_tokens)).tolist()
        for index, record in self._running():
            record.sample(said[index])


def one_device() -> Mesh:
    """A mesh of one device of this process."""
    return mesh_of(1)


def mesh_of(runs: int) -> Mesh:
    """A mesh of as many devices of this process as so many runs spread evenly over."""
    return make_mesh(MeshConfig(), jax.local_devices()[: devices_for(runs)])


def devices_for(runs: int) -> int:
    """How many devices of this process so many runs spread evenly over."""
    return max(n for n in range(1, jax.local_device_count() + 1) if runs % n == 0)


def compile_together(model: Transformer, config: TrainConfig, length: int, runs: int) -> jax.stages.Compiled:
    """The step of runs that see the same batches, of rows of `length` tokens, as they take it."""
    mesh = mesh_of(runs)
    along, whole = NamedSharding(mesh, PartitionSpec(RUNS)), batch_sharding(mesh, WHOLE)
    one = abstract_state(model, config, one_device(), WHOLE)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((runs, *x.shape), x.dtype, sharding=along), one)
    shape, dtypes = (config.batch_size, length), ["float32" if name == "weights" else "int32" for name in Batch._fields]
    batch: list[Any] = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for dtype in dtypes]
    with jax.set_mesh(mesh):
        return compile_step(model, config, state, Batch(*batch))


def _stack(trees: Sequence[Any]) -> Any:
    """Trees of arrays on the host as one, along a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@partial(jax.jit, static_argnums=(0, 3))
def _nats(model: Transformer, params: Any, batch: Batch, vocab_chunk: int | None) -> Float[Array, "runs"]:
    """Each run's summed loss of a batch that they share."""
    nats = partial(next_token_loss, model, vocab_chunk=vocab_chunk)
    return jax.vmap(nats, in_axes=(0, None), spmd_axis_name=RUNS)(params, batch)


@partial(jax.jit, static_argnums=(0, 5))
def _say(
    model: Transformer, params: Any, prompt: Int[Array, "T"], seeds: Int[Array, "runs"], step: int, count: int
) -> Int[Array, "runs N"]:
    """The tokens that `Record.say` would draw of each run, up to rounding, and those after an end."""

    def of_run(params: Any, seed: Int[Array, ""]) -> Int[Array, "N"]:
        key, start = jax.random.fold_in(jax.random.key(seed), step), jnp.array([len(prompt)])
        cache = init_cache(model.config, 1, len(prompt) + count, model.dtype)
        out, cache = prefill(model, params, prompt[None], start, cache)

        def append(carry: tuple[Array, KVCache], index: Array) -> tuple[tuple[Array, KVCache], Array]:
            token, _ = choose(key, index, carry[0], SamplingConfig())
            return decode_step(model, params, token, start + index, carry[1]), token[0]

        return jax.lax.scan(append, (out, cache), jnp.arange(count))[1]

    return jax.vmap(of_run, spmd_axis_name=RUNS)(params, seeds)
