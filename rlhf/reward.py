"""The reward model: answers that people chose score above those they did not (Bradley & Terry 1952)."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int

from model.attention import SHARED
from model.chat import ChatTemplate, Message
from model.decode import rounded
from model.errors import UserError
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from rlhf.answers import Answers, AnyArray
from rlhf.config import RewardConfig
from rlhf.objectives import bradley_terry
from rlhf.preferences import PromptGroup
from rlhf.scorer import RewardModel, init_reward_model, normalized, score
from rlhf.stage import Step
from train.optimizer import is_matrix

REFERENCE_GROUPS = 128  # prompts whose answers fix the scale of the scores
WINDOW = 8  # batches at most that sort prompts by length among them: two fifths of the places were padding, now one


class RewardState(NamedTuple):
    """All that a step reads and writes."""

    step: Int[Array, ""]
    params: RewardModel
    opt_state: Any


class Comparisons(NamedTuple):
    """Answers to some prompts, each prompt and each answer once, and the pairs among them. Weight 0 marks padding."""

    answers: Answers
    chosen: Int[AnyArray, "M"]
    rejected: Int[AnyArray, "M"]
    margin: Float[AnyArray, "M"]
    weights: Float[AnyArray, "M"]


class Comparer:
    """Makes batches of comparisons, of similar length: batch n is a pure function of the seed and n."""

    def __init__(
        self,
        groups: Sequence[PromptGroup],
        tokenizer: Tokenizer,
        template: ChatTemplate,
        length: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.answers = [
            [encode_answer(tokenizer, template, group.prompt, answer, length) for answer in group.answers]
            for group in groups
        ]
        self.most_answers = max(len(group.answers) for group in groups)
        self.most_pairs = max(len(group.pairs) for group in groups)
        self.longest_answer = rounded(max(len(said.answer) for answers in self.answers for said in answers))
        self.sizes = np.array([sum(len(said.answer) for said in answers) for answers in self.answers])
        self.lengths = self.sizes + [answers[0].start for answers in self.answers]
        self.window = max(1, min(WINDOW, len(groups) // batch_size))
        self._order = grain.MapDataset.range(len(groups)).shuffle(seed=seed).repeat()

    def batch(self, number: int) -> Comparisons:
        """Batch `number`, from 0."""
        window, turn = divmod(number, self.window)
        size, count = self.window * self.batch_size, len(self.groups)
        places = range(window * size, (window + 1) * size)
        drawn = [(place // count, int(self._order[place])) for place in places]
        # By turns through all prompts first: no batch has one twice but where two turns meet.
        drawn.sort(key=lambda each: (each[0], self.lengths[each[1]]))
        prompts = [prompt for _, prompt in drawn]
        start = int(np.random.default_rng((self.seed, window)).permutation(self.window)[turn]) * self.batch_size
        return self.collate(prompts[start : start + self.batch_size])

    def parts(self, places: Iterable[int]) -> Iterator[tuple[list[int], Comparisons]]:
        """Some prompts in batches, from the shortest, each with their places."""
        order = sorted(places, key=self.lengths.__getitem__)
        for start in range(0, len(order), self.batch_size):
            yield (part := order[start : start + self.batch_size]), self.collate(part)

    def collate(self, places: Sequence[int]) -> Comparisons:
        """The comparisons of some prompts, padded to one of few shapes."""
        count, pairs = self.batch_size * self.most_answers, self.batch_size * self.most_pairs
        width = rounded(int(self.lengths[list(places)].max()))
        most_said = rounded(int(self.sizes[self.lengths <= width].max()))  # one shape a width, whichever prompts come
        tokens, positions, segments = np.zeros((3, self.batch_size, width), np.int32)
        wanted = np.zeros((self.batch_size, 1 + most_said), np.int32)
        rows = np.zeros(count, np.int32)
        where = np.zeros((count, self.longest_answer), np.int32)
        inside = np.zeros(where.shape, bool)
        chosen, rejected = np.zeros((2, pairs), np.int32)
        margin, weights = np.zeros((2, pairs), np.float32)
        answer = pair = 0
        for row, place in enumerate(places):
            for won in self.groups[place].pairs:
                chosen[pair], rejected[pair] = answer + won.winner, answer + won.loser
                margin[pair], weights[pair] = won.margin, 1
                pair += 1
            # The chat template puts the same tokens before every answer to a prompt.
            start = end = self.answers[place][0].start
            prompt = self.answers[place][0].ids[:end]
            wanted[row] = np.minimum(np.arange(start - 1, start + most_said), width - 1)
            tokens[row, :end], positions[row, :end], segments[row, :end] = prompt, np.arange(end), SHARED
            for segment, said in enumerate(self.answers[place], start=1):
                size = len(said.answer)
                here = slice(end, end + size)
                tokens[row, here], segments[row, here] = said.answer, segment
                positions[row, here] = np.arange(said.start, len(said.ids))
                rows[answer], inside[answer, :size] = row, True
                where[answer, :size] = np.arange(end, end + size) - start + 1
                answer, end = answer + 1, end + size
        answers = Answers(tokens, positions, segments, wanted, rows, where, inside)
        return Comparisons(answers, chosen, rejected, margin, weights)


class EncodedAnswer(NamedTuple):
    """A prompt with an answer, to the token that ends it."""

    ids: list[int]
    start: int
    """Where the answer begins."""

    @property
    def answer(self) -> list[int]:
        """The answer alone, with the token that ends it."""
        return self.ids[self.start :]


def encode_answer(
    tokenizer: Tokenizer, template: ChatTemplate, prompt: Sequence[Message], answer: str, length: int
) -> EncodedAnswer:
    """The ids of a prompt with an answer.

    Raises:
        UserError: it is longer than `length`.
    """
    chat = template.encode(tokenizer, [*prompt, Message("assistant", answer)])
    last = len(chat.by_assistant) - chat.by_assistant[::-1].index(True)
    first = last - chat.by_assistant[:last][::-1].index(False)
    ids = [tokenizer.document_end, *chat.tokens[:last]]
    if len(ids) > length:
        told = f"the answer {answer[:60]!r} has {len(ids)} tokens with its prompt"
        raise UserError(f"{told}; reward.length, or the model's context, is {length}.")
    return EncodedAnswer(ids, 1 + first)


def comparison_loss(
    params: RewardModel, batch: Comparisons, model: Transformer, smoothing: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean Bradley-Terry loss of all heads on a batch, and how often they agree with the choices."""
    scores = score(model, params, batch.answers)

    def of_head(scores: Float[Array, "N"]) -> tuple[Array, Array]:
        return bradley_terry(scores[batch.chosen], scores[batch.rejected], batch.margin, smoothing, batch.weights)

    losses, accuracies = jax.vmap(of_head, in_axes=1)(scores)
    return jnp.mean(losses), jnp.mean(accuracies)


def make_reward_optimizer(rate: ArrayLike, decay: float) -> optax.GradientTransformation:
    """AdamW. The rate may be an argument of the program, so that reward models of other lengths share it."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=decay, mask=is_matrix))


@partial(jax.jit, static_argnames=("model", "smoothing", "decay"), donate_argnums=0)
def reward_step(
    state: RewardState, batch: Comparisons, rate: ArrayLike, model: Transformer, smoothing: float, decay: float
) -> tuple[RewardState, Float[Array, ""], Float[Array, ""]]:
    """One update; the loss and the accuracy before it."""
    learned, reference = state.params._replace(reference=None), state.params.reference  # which nothing moves

    def loss_of(learned: RewardModel) -> tuple[Array, Array]:
        return comparison_loss(learned._replace(reference=reference), batch, model, smoothing)

    (loss, accuracy), grads = jax.value_and_grad(loss_of, has_aux=True)(learned)
    updates, opt_state = make_reward_optimizer(rate, decay).update(grads, state.opt_state, learned)
    params = optax.apply_updates(learned, updates)._replace(reference=reference)
    return RewardState(state.step + 1, params, opt_state), loss, accuracy


_score = jax.jit(score, static_argnums=0)


class RewardTrainer:
    """What the stage needs beside its state."""

    def __init__(self, model: Transformer, config: RewardConfig, comparer: Comparer) -> None:
        self.model, self.config, self.comparer = model, config, comparer

    def initial(self, trunk: Any, seed: int) -> RewardState:
        """The state before the first step: fresh heads on a trunk, its scores on reference answers normalized."""
        fresh = init_reward_model(jax.random.key(seed), trunk, self.model.config.width, self.config.heads)
        fresh = jax.tree.map(jnp.copy, fresh)  # a step uses up what it is given
        # Of the two only the heads say anything yet, so only they are scaled.
        params = self.normalize(fresh)._replace(weight=fresh.weight)
        optimizer = make_reward_optimizer(0.0, self.config.weight_decay)
        return RewardState(jnp.zeros((), jnp.int32), params, optimizer.init(params._replace(reference=None)))

    def normalize(self, params: RewardModel) -> RewardModel:
        """The same model with mean 0 and std 1 on the answers of the first prompts."""
        groups = range(min(REFERENCE_GROUPS, len(self.comparer.groups)))
        return normalized(params, np.concatenate(self.scores(params, self.comparer, groups)))

    def take_step(self, state: RewardState, number: int) -> Step:
        """One update; after the last one the scores are normalized again, and `score_std` is what they had learned."""
        c, batch = self.config, self.comparer.batch(number - 1)
        rate = np.interp(number - 1, [0, min(c.warmup_steps, c.steps), c.steps], [0.0, c.learning_rate, 0.0])
        state, loss, accuracy = reward_step(state, batch, rate, self.model, c.label_smoothing, c.weight_decay)
        found = {"loss": float(loss), "accuracy": float(accuracy)}
        if number == self.config.steps:
            learned, state = state, state._replace(params=self.normalize(state.params))
            sizes = [jnp.linalg.norm(each.params.scorer.kernel, axis=0) for each in (learned, state)]
            found["score_std"] = float(jnp.mean(sizes[0] / sizes[1]))
        return Step(state, found, note=f"loss {found['loss']:.3f}  accuracy {found['accuracy']:.0%}")

    def scores(self, params: RewardModel, comparer: Comparer, places: Sequence[int]) -> list[Float[np.ndarray, "A K"]]:
        """Every head's scores of each prompt's answers."""
        found: dict[int, np.ndarray] = {}
        for part, batch in comparer.parts(places):
            ends = np.cumsum([len(comparer.groups[place].answers) for place in part])
            scores = np.asarray(_score(self.model, params, batch.answers))
            found |= zip(part, np.split(scores, ends)[:-1], strict=True)
        return [found[place] for place in places]


class RewardEvaluation(NamedTuple):
    """How a reward model does on held-out choices. Over an ensemble the heads' mean is judged."""

    pairs: int
    accuracy: float
    """Share of pairs where the chosen answer scores higher; ties count half."""
    loss: float
    """Bradley-Terry, nats per pair."""
    calibration_error: float
    """ECE over ten bins of the predicted probability."""
    length_correlation: float
    """Pearson's, between score and answer length in tokens; 0 where one of the two does not vary."""


def evaluate_reward(
    trainer: RewardTrainer, params: RewardModel, held_out: Comparer, score_std: float
) -> RewardEvaluation:
    """Judge a reward model on choices it has not seen.

    Args:
        score_std: what the scores were divided by at last; as learned their differences are log-odds.
    """
    scores = [rows.mean(axis=1) for rows in trainer.scores(params, held_out, range(len(held_out.groups)))]
    judged = zip(scores, held_out.groups, strict=True)
    differences = np.array([rows[won.winner] - rows[won.loser] for rows, group in judged for won in group.pairs])
    log_odds, flat = score_std * differences, np.concatenate(scores)
    lengths = np.array([len(said.answer) for answers in held_out.answers for said in answers])
    return RewardEvaluation(
        pairs=len(differences),
        accuracy=float(np.mean((np.sign(differences) + 1) / 2)),
        loss=float(np.mean(np.logaddexp(0, -log_odds))),
        calibration_error=calibration_error(log_odds),
        length_correlation=float(np.corrcoef(flat, lengths)[0, 1]) if flat.std() * lengths.std() > 0 else 0.0,
    )


def calibration_error(differences: Float[np.ndarray, "M"], bins: int = 10) -> float:
    """Expected calibration error (Guo et al. 2017, equation 3) of sigma(difference) as the favourite's probability.

    Args:
        differences: score of the chosen answer less that of the rejected one.
    """
    confidence = 1 / (1 + np.exp(-np.abs(differences)))
    right = differences > 0
    which = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = [abs(confidence[which == b].mean() - right[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))
