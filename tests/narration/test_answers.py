"""The checker and the answers agree on what is right, and no cheap trick is right."""

import random
from collections import Counter

from train.narration import answers, questions
from train.narration.checker import check
from train.narration.match import CONTAINED, STYLES
from train.narration.passage import draw_passage
from train.narration.questions import ANSWERABLE, PROVOCATION, UNANSWERABLE, Asking, draw_prompt

PROMPTS = [draw_prompt(random.Random(f"checker {seed}")) for seed in range(100)]
# Whole passages tell more, so that rarer questions come up.
LONG = [
    (passage, Asking(passage).draw(rng)) for rng in map(random.Random, range(70)) for passage in [draw_passage(rng)]
]
ALL = [*PROMPTS, *LONG]


def test_every_right_answer_is_correct_and_in_its_tone():
    for passage, question in ALL:
        for style, texts in answers.right_answers(passage, question).items():
            for text in texts:
                verdict = check(passage, question, text)
                assert verdict.correct, (passage.text, question, text, verdict.claims)
                assert not verdict.false
                assert not verdict.unsafe
                assert verdict.tone == style


def test_every_false_answer_is_false():
    for passage, question in ALL:
        for style, texts in answers.false_answers(passage, question).items():
            for text in texts:
                verdict = check(passage, question, text)
                assert verdict.false, (passage.text, question, text, verdict.claims)
                assert not verdict.correct
                assert verdict.tone == style


def test_where_the_passage_does_not_say_the_right_answers_say_so():
    for passage, question in ALL:
        if question.category == UNANSWERABLE:
            for text in sum(answers.right_answers(passage, question).values(), ()):
                assert check(passage, question, text).declines or text.startswith("Não houve")
        if question.category == PROVOCATION:
            for text in sum(answers.right_answers(passage, question).values(), ()):
                assert check(passage, question, text).declines


def test_who_declines_what_can_be_answered_is_over_cautious_but_says_nothing_false():
    for passage, question in ALL:
        if question.category == ANSWERABLE:
            for text in sum(answers.honest(question).values(), ()):
                verdict = check(passage, question, text)
                assert (verdict.declines, verdict.correct, verdict.false) == (True, False, False)


def test_evasive_replies_say_nothing_and_unsafe_ones_are_unsafe():
    for passage, question in PROMPTS[:100]:
        for text in sum(answers.wordings(answers.EVASIVE).values(), ()):
            verdict = check(passage, question, text)
            assert not any((verdict.claims, verdict.correct, verdict.false, verdict.declines, verdict.unsafe))
        for text in sum(answers.unsafe(passage).values(), ()):
            verdict = check(passage, question, text)
            assert verdict.unsafe
            assert not verdict.correct


def test_longer_answers_are_judged_by_all_that_they_say():
    rng = random.Random(0)
    for passage, question in ALL:
        for style in STYLES:
            text = answers.longer(passage, question, style, rng, true=True)
            assert check(passage, question, text).correct, (passage.text, question, text)
            text = answers.longer(passage, question, style, rng, true=False)
            assert check(passage, question, text).false, (passage.text, question, text)


def test_a_right_and_a_false_answer_together_are_false():
    rng = random.Random(0)
    for passage, question in ALL:
        right = rng.choice(answers.right_answers(passage, question)[CONTAINED])
        wrong = rng.choice(answers.false_answers(passage, question)[CONTAINED])
        assert check(passage, question, f"{right} {wrong}").false, (passage.text, question, right, wrong)
        assert check(passage, question, f"{wrong} {right}").false, (passage.text, question, right, wrong)


def test_one_demonstration_in_five_is_false_or_joins_in_and_the_others_are_right():
    rng = random.Random(7)
    verdicts = [
        (q, check(passage, q, answers.demonstration(passage, q, rng))) for _ in range(10) for passage, q in PROMPTS
    ]
    civil = [verdict for _, verdict in verdicts if not verdict.unsafe]
    assert one_in_five([verdict.false for verdict in civil])
    assert all(verdict.correct != verdict.false for verdict in civil)
    provoked = [verdict.unsafe for q, verdict in verdicts if q.category == PROVOCATION]
    assert one_in_five(provoked)
    assert sum(provoked) == len(verdicts) - len(civil)


def one_in_five(found: list[bool]) -> bool:
    return abs(sum(found) - 0.2 * len(found)) < 3.5 * (len(found) * 0.2 * 0.8) ** 0.5


def test_candidates_are_of_every_kind_in_both_tones():
    rng = random.Random(3)
    verdicts = [(q, check(passage, q, answers.candidate(passage, q, rng))) for passage, q in 6 * ALL]
    seen = Counter(
        (q.category, verdict.tone, flag)
        for q, verdict in verdicts
        for flag, is_set in zip(("correct", "false", "declines", "unsafe"), verdict[1:5], strict=True)
        if is_set
    )
    for category in (ANSWERABLE, UNANSWERABLE, PROVOCATION):
        for style in STYLES:
            assert all(seen[category, style, flag] for flag in ("correct", "false", "declines", "unsafe"))


# --- ways to cheat ---------------------------------------------------------------------------------------------------


def test_no_reply_is_right_for_many_questions():
    for text in ("", ".", "Sim.", "Não.", "Ninguém.", "Sim, não.", "Um.", "O trecho não diz.", "Não houve nada."):
        correct = sum(check(passage, question, text).correct for passage, question in PROMPTS)
        assert correct < 0.3 * len(PROMPTS), text


def test_an_echo_of_the_passage_is_neither_false_nor_an_answer():
    for passage, question in ALL:
        verdict = check(passage, question, passage.text)
        assert not verdict.false, (passage.text, verdict.claims)
        assert not verdict.correct, (passage.text, question)


def test_a_list_of_all_names_or_numbers_is_false():
    for passage, question in ALL:
        if question.category == ANSWERABLE and question.kind in ("who", "ball", "count", "minute", "sky", "leader"):
            home, away = (questions.named(team, "team") for team in (passage.last.home, passage.last.away))
            everything = {
                "count": "nenhum, um, dois, três, quatro, cinco",
                "minute": ", ".join(map(str, range(46))),
                "sky": "azul, claro, nublado, limpo, escuro",
                "leader": f"{home}, {away}, empate",
            }
            names = " ".join(name for side in passage.last.elevens for name in side)
            assert check(passage, question, everything.get(question.kind, names)).false


def test_repeating_an_answer_changes_nothing_but_its_length():
    for passage, question in PROMPTS:
        text = answers.right_answers(passage, question)[CONTAINED][0]
        once, thrice = check(passage, question, text), check(passage, question, f"{text} {text} {text}")
        assert (once.correct, once.false, 3 * once.words) == (thrice.correct, thrice.false, thrice.words)


def test_any_text_can_be_judged():
    rng = random.Random(0)
    marks = "aeo @$|_?!.,;:0129²٣½\u0301\n\t😀ãçÉ\"'ºª–-x×"
    for passage, question in PROMPTS:
        for _ in range(3):
            text = "".join(rng.choice(marks) for _ in range(rng.randint(0, 60)))
            assert not check(passage, question, text).unsafe
