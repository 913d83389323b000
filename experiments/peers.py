"""Other people's trainers on work of our choosing, to measure ours beside. What they need comes with extra `bench`."""

import contextlib
import gc
import io
import os
import random
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from model.errors import UserError


@dataclass(frozen=True)
class PpoShape:
    """The work of one PPO update: a GPT-2's size and how much it writes and learns from."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    vocabulary: int = 512
    prompt_length: int = 16
    """Tokens of the longest prompt. Lengths are uniform from 1, and every batch is as wide as the longest."""
    response_length: int = 32
    """Tokens of every response: nothing stops one early."""
    batch: int = 32
    """Episodes of one update."""
    minibatches: int = 1
    """Steps of the optimizer in one epoch over the batch. One is TRL's default."""
    epochs: int = 4

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UserError(f"{name}={value} must be at least 1.")
        for whole, part in (("width", "heads"), ("batch", "minibatches")):
            if getattr(self, whole) % getattr(self, part):
                raise UserError(f"{whole}={getattr(self, whole)} must be a multiple of {part}={getattr(self, part)}.")


class TrlPpo:
    """TRL's PPOTrainer on a shape: float32, on CUDA's device where torch has one, else the CPU.

    Policy and its reference, critic and reward model are GPT-2s with random weights, each a model of its own. Nothing
    stops a response: there is no stop token, and the one special token, which pads prompts, lies above the vocabulary
    (TRL puts a 0 and a mask in its place), so that no model can write it and every episode is whole.

    Beside the work TRL does only what cannot be switched off: sums for its log, and two garbage collections an update.
    Those look at every object of the process, modules' included, and would take as long as the work on a small shape;
    what was there before an update is therefore frozen, out of their sight.
    """

    def __init__(self, shape: PpoShape) -> None:
        """Make the models, some batches of random prompts, and the trainer.

        Raises:
            UserError: TRL, or one that has a PPOTrainer, is not installed.
        """
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        try:
            import torch
            import transformers
            from tokenizers import Tokenizer, models
            from trl.experimental.ppo import PPOConfig, PPOTrainer
        except ImportError as error:
            raise UserError(f"there is no PPOTrainer of TRL ({error}): pip install 'narrador[bench]'.") from None
        transformers.utils.logging.set_verbosity_error()  # TRL calls what transformers deprecates
        self.shape = shape
        torch.manual_seed(0)
        size: dict[str, Any] = {"n_layer": shape.layers, "n_embd": shape.width, "n_head": shape.heads}
        size |= {"vocab_size": shape.vocabulary, "n_positions": shape.prompt_length + shape.response_length}
        config = transformers.GPT2Config(**size, bos_token_id=None, eos_token_id=None)
        config.num_labels = 1  # of the critic and the reward model
        names = {str(index): index for index in range(shape.vocabulary)} | {"<pad>": shape.vocabulary}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel(names, "<pad>")),
            pad_token="<pad>",
            eos_token="<pad>",  # TRL counts it in responses, and finds none
            padding_side="left",
        )
        off: dict[str, Any] = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        off |= {"num_sample_generations": 0, "bf16": False, "gradient_checkpointing": False}
        with tempfile.TemporaryDirectory() as folder:  # TRL makes one, and with the settings below never writes to it
            self._trainer: Any = PPOTrainer(
                args=PPOConfig(
                    output_dir=folder,
                    # One accumulated batch, which the minibatches then split: accumulation would swallow their steps.
                    per_device_train_batch_size=shape.batch,
                    gradient_accumulation_steps=1,
                    num_mini_batches=shape.minibatches,
                    num_ppo_epochs=shape.epochs,
                    local_rollout_forward_batch_size=shape.batch,
                    response_length=shape.response_length,
                    lr_scheduler_type="constant",
                    tf32=transformers.utils.is_torch_tf32_available() or None,  # as XLA does
                    **off,
                ),
                processing_class=tokenizer,
                model=transformers.GPT2LMHeadModel(config),
                ref_model=None,  # a copy of the policy
                reward_model=transformers.GPT2ForSequenceClassification(config),
                value_model=transformers.GPT2ForSequenceClassification(config),
                train_dataset=_prompts(shape, batches=8),
                data_collator=transformers.DataCollatorWithPadding(tokenizer, "max_length", shape.prompt_length),
            )
        self._trainer.remove_callback(transformers.PrinterCallback)
        self.device = str(self._trainer.accelerator.device.type)
        """`cpu` or `cuda`."""

    @property
    def versions(self) -> dict[str, str]:
        """What was measured."""
        return {name: version(name) for name in ("trl", "transformers", "torch")}

    def warm_up(self) -> None:
        """Two updates that nobody times."""
        self._train(2)

    def episodes_per_second(self, updates: int) -> float:
        """Episodes a second of `updates` whole updates: rollout, scores and every epoch. Call `warm_up` before.

        TRL's own loop runs once more, on the same trainer, models and optimizer, and the clock counts the whole call.
        What it does outside the updates takes about a millisecond. Each update ends by reading its metrics, so that a
        device has finished by then.
        """
        return self.shape.batch * updates / self._train(updates)

    def _train(self, updates: int) -> float:
        """Seconds that TRL's loop takes."""
        self._trainer.args.num_total_batches = updates
        gc.collect()
        gc.freeze()
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it greets
                start = time.perf_counter()
                self._trainer.train()
                return time.perf_counter() - start
        finally:
            gc.unfreeze()


def _prompts(shape: PpoShape, batches: int) -> list[dict[str, list[int]]]:
    """Random tokens, as TRL wants them."""
    draw = random.Random(0)
    lengths = [draw.randint(1, shape.prompt_length) for _ in range(shape.batch * batches)]
    return [{"input_ids": draw.choices(range(shape.vocabulary), k=length)} for length in lengths]
