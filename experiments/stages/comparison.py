"""The last stage: what PPO came to, held against the model that it began as."""

from typing import Any

from experiments.answer_comparison import Drawing, ask_source, ask_world, compare_answers
from experiments.config import Experiment
from experiments.stages.alignment import judging_run
from experiments.text_scorer import TextScorer
from train.loop import StopRequest
from train.run_directory import RunDirectory
from train.trained import load

PROMPTS = 500


def compare(experiment: Experiment, run: RunDirectory, stop: StopRequest) -> dict[str, Any]:
    """As `narrador compare RUN:ppo RUN:sft`, with answers as long as PPO's: in the narrator's world on new prompts,
    judged by the gold reward.

    Elsewhere on the prompts of PPO itself, judged by the reward model that it learned from.
    """
    stage = run.stage("compare")
    if stage.result is not None:
        return stage.result
    judging = judging_run(experiment.ppo, run)
    models = [load(run, name) for name in ("ppo", "sft")]
    drawing = Drawing(temperature=1.0, max_tokens=experiment.ppo.max_tokens, seed=0, best_of=1)
    source = experiment.ppo.prompts
    if source.startswith("narration_chat"):
        judge, found = "gold", compare_answers(models, ask_world(PROMPTS, drawing.seed), None, drawing)
    else:
        judge = f"reward:{judging.path}"
        found = compare_answers(models, ask_source(source, PROMPTS, drawing.seed), TextScorer(judging), drawing)
    chosen = judging.completed("reward")
    result = {
        "stage": "compare",
        "a": f"{run.path}:ppo",
        "b": f"{run.path}:sft",
        "judge": judge,
        **found,
        "reward_model_accuracy": chosen["accuracy"],
        "reward_model_ceiling": chosen.get("ceiling"),
    }
    stage.complete(result)
    return result
