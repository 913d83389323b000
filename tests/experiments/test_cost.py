"""What knows the answer: published compute and GPU-hours, sums by hand, and the table that docs/cost.md shows."""

import json
import re
from pathlib import Path

import pytest

from experiments import cli
from experiments.chips import CHIPS, PUE
from experiments.commands.cost import duration, in_words
from experiments.config import find_experiment
from experiments.cost import CLAIM_FLOPS, ESTIMATES, Assumptions, computing, find_training, sums
from experiments.presets import EXPERIMENTS, RECIPES
from train.flops import PEAK_FLOPS

# Total training FLOPs of Brown et al. 2020, table D.1: 6ND.
GPT3_FLOPS = {
    "gpt3-125m": 2.25e20,
    "gpt3-350m": 6.41e20,
    "gpt3-760m": 1.37e21,
    "gpt3-1.3b": 2.38e21,
    "gpt3-2.7b": 4.77e21,
    "gpt3-6.7b": 1.20e22,
    "gpt3-13b": 2.31e22,
    "gpt3-175b": 3.14e23,
}


@pytest.fixture
def call(capsys):
    """Exit code, stdout and stderr of `narrador cost ...`."""

    def run(*arguments):
        try:
            code = cli.main(("cost", *arguments))
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def of(name, **assumptions):
    return sums(find_training(name), Assumptions(**assumptions))


@pytest.mark.parametrize("name", GPT3_FLOPS)
def test_gpt3_took_what_its_paper_says(name):
    found = of(name)
    assert found["six_nd_flops"] == pytest.approx(GPT3_FLOPS[name], rel=0.005)
    assert found["six_nd_flops"] < found["training_flops"] < 1.09 * found["six_nd_flops"]


def test_llama_405b_took_what_its_paper_and_model_card_say():
    found = of("llama3.1-405b")
    assert found["six_nd_flops"] == pytest.approx(3.8e25, rel=0.005)  # Grattafiori et al. 2024, section 3.2.1
    assert found["training_flops"] == pytest.approx(3.8e25, rel=0.05)  # theirs leaves attention out
    assert found["gpu_hours"] == pytest.approx(30.84e6, rel=0.12)  # of H100s, restarts and all
    assert found["kilowatt_hours"] / PUE == pytest.approx(30.84e6 * 0.7, rel=0.12)  # 700 W each


def test_attention_is_counted_by_hand_too():
    """Llama 3.1 8B in rows of 8,192: 6 for each weight but the look-up's and the norms', 6 x width x keys a layer."""
    weights = 8_030_261_248 - 128_256 * 4096 - (2 * 32 + 1) * 4096
    attention = 6 * 4096 * 8193 * 32
    assert of("llama3.1-8b")["training_flops"] == pytest.approx((6 * weights + attention) * 15e12, rel=1e-12)


def test_a_mixture_of_experts_counts_what_is_active():
    """gpt4-estimate by hand: attention, two of sixteen experts, the router, norms; embedding and positions."""
    width, layers, expert = 10_240, 120, 2 * 10_240 * 41_984
    shared = 4 * width**2 + 4 * width + 16 * width + 4 * width  # with attention's biases and two LayerNorms
    around = (100_352 + 8192) * width + 2 * width
    found = of("gpt4-estimate")
    assert found["parameters"] == layers * (shared + 16 * expert) + around == pytest.approx(1.7e12, rel=0.005)
    assert found["active_parameters"] == layers * (shared + 2 * expert) + around
    weights = layers * (4 * width**2 + 16 * width + 2 * expert) + 100_352 * width
    attention = 6 * width * 8193 * layers
    assert found["training_flops"] == pytest.approx((6 * weights + attention) * 13e12, rel=1e-12)
    assert "public guess" in found["parameters_source"]
    assert "public guess" in found["tokens_source"]


def test_an_estimate_without_shapes_is_six_nd():
    found = of("claude3-opus-estimate")
    assert found["training_flops"] == found["six_nd_flops"] == 6.0 * 175e9 * 3.5e12


def test_reading_what_gpt3_read_takes_2600_years():
    minutes = 300e9 * 0.75 / 165
    assert of("gpt3-175b")["reading_years"] == pytest.approx(minutes / (60 * 24 * 365.25), rel=1e-9)
    assert of("gpt3-175b")["reading_years"] == pytest.approx(2600, abs=10)
    assert of("gpt3-175b", words_per_token=1.5, words_per_minute=330)["reading_years"] == pytest.approx(2600, abs=10)


def test_units_by_hand():
    """What an H100 does in 1,000 hours at 40%: 6.88 dollars and 0.7 kWh an hour, the latter times PUE."""
    flops = 1000 * 3600 * 0.4 * 989e12
    found = computing(flops, Assumptions())
    assert found["gpu_hours"] == pytest.approx(1000)
    assert found["dollars"] == pytest.approx(6880)
    assert found["kilowatt_hours"] == pytest.approx(700 * PUE)
    assert found["years_at_1e9_ops"] == pytest.approx(flops / 1e9 / 31_557_600)
    assert computing(flops, Assumptions(mfu=0.8))["gpu_hours"] == pytest.approx(500)


def test_what_is_not_published_stays_unknown(call):
    assert of("tiny", chip="v5p")["kilowatt_hours"] is None
    _, out, _ = call("tiny", "--chip", "v5p")
    assert re.search(r"energy +not known", out)


@pytest.mark.parametrize("name", ["narrator", "tiny", "depth-5"])
def test_our_experiments_bring_their_own_tokens(name):
    _, experiment = find_experiment(name)
    rows = experiment.train.steps * experiment.train.batch_size
    found = of(name)
    assert found["tokens"] == rows * experiment.data.sequence_length
    assert found["six_nd_flops"] == 6 * found["parameters"] * found["tokens"]


def test_a_file_and_other_tokens(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: char\nmodel: {vocab_size: 100}\n")
    _, out, _ = call("mine.yaml", "--tokens", "2e6", "--json")
    found = json.loads(out)
    assert (found["name"], found["tokens"], found["tokens_source"]) == ("mine", 2_000_000, "as told by --tokens")
    _, out, _ = call("claude3-opus-estimate", "--tokens", "1e12")
    assert "public guess" in out  # of its size, whatever the tokens


def test_json_of_one_and_of_all(call):
    _, out, _ = call("gpt3-175b", "--json", "--chip", "b200", "--mfu", "0.5")
    found = json.loads(out.splitlines()[-1])
    for key in ("parameters", "training_flops", "years_at_1e9_ops", "reading_years", "gpu_hours", "dollars"):
        assert found[key] > 0
    assert found["kilowatt_hours"] == pytest.approx(found["gpu_hours"] * PUE)  # 1,000 W
    assert (found["assumptions"]["chip"], found["assumptions"]["mfu"]) == ("b200", 0.5)
    _, out, _ = call("--json")
    whole = json.loads(out.splitlines()[-1])
    assert {row["name"] for row in whole["presets"]} == RECIPES.keys() | ESTIMATES.keys()
    assert whole["claim"]["years_at_1e9_ops"] == pytest.approx(100e6)


def test_the_claim_stands_among_the_presets():
    assert pytest.approx(3.2e24, rel=0.02) == CLAIM_FLOPS
    assert of("gpt3-175b")["training_flops"] < CLAIM_FLOPS < of("llama3.1-70b")["training_flops"]


def test_docs_show_what_the_command_prints(call):
    text = (Path(__file__).parents[2] / "docs" / "cost.md").read_text(encoding="utf-8")
    blocks = re.findall(r"\$ narrador cost(.*)\n([\s\S]*?)\n```", text)
    assert len(blocks) == 2
    for command, shown in blocks:
        _, out, _ = call(*command.split())
        assert shown == out.rstrip("\n"), f"run `narrador cost{command}` anew and paste it"


def test_numbers_in_words():
    assert [in_words(n) for n in (0.4151, 999.6, 12_345, 999_600, 1.7e12)] == [
        "0.415",
        "1,000",
        "12,300",
        "1 million",
        "1.7 trillion",
    ]
    assert [duration(s) for s in (0.5, 90, 7200, 63_115_200)] == ["0.5 seconds", "1.5 minutes", "2 hours", "2 years"]
    assert duration(63_115_200, "hours") == "17,500 hours"


def test_no_estimate_stands_in_for_a_preset():
    assert not ESTIMATES.keys() & EXPERIMENTS.keys()


def test_chips_agree_with_what_training_measures_against():
    kinds = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
    kinds |= {name: f"NVIDIA {name.upper()}" for name in ("a100", "h100", "h200")}
    assert {name: CHIPS[name].peak_flops for name in kinds} == {name: PEAK_FLOPS[kind] for name, kind in kinds.items()}
    for chip in CHIPS.values():
        assert re.fullmatch(r"20\d\d-\d\d(-\d\d)?", chip.price_date)
        assert 1 < chip.dollars_per_hour < 20
        assert 0 < chip.interconnect_bandwidth < chip.hbm_bandwidth < chip.peak_flops


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("gpt4-estimat",), "Did you mean 'gpt4-estimate'?"),
        (("gpt3-175",), "Did you mean 'gpt3-175b'?"),
        (("char",), "the vocabulary of 'char' is known only once"),
        (("missing.yaml",), "no config file 'missing.yaml'"),
        (("tiny", "--chip", "h10"), "unknown chip 'h10'. Did you mean 'h100'? Known: v4, v5e"),
        (("tiny", "--mfu", "40"), "--mfu 40 must lie between 0.000001 and 1."),
        (("tiny", "--tokens", "0"), "--tokens 0 must lie between 1 and 1e18"),
        (("tiny", "--tokens", "nan"), "--tokens nan must lie"),
        (("--words-per-minute", "0"), "--words-per-minute 0 must lie"),
        (("--words-per-token", "inf"), "--words-per-token inf must lie"),
        (("tiny", "--tokens", "many"), "--tokens"),
    ],
)
def test_bad_input_ends_in_one_message_and_code_2(arguments, told, call):
    code, out, err = call(*arguments)
    assert code == 2
    assert "Traceback" not in err
    assert told in re.sub(r"[\s│]+", " ", err + out)
