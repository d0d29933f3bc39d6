from __future__ import annotations

from ensemw2s.evaluation.cost import arm_cost, flops_of, stage_cost


def work(kind, what, tokens, flops):
    return {"kind": kind, "what": what, "tokens": tokens, "flops": flops}


STAGES = {
    "experts/round-01": stage_cost([work("train", "", 10, 600)]),
    "experts/round-01/scores": stage_cost(
        [work("score", "train", 5, 100), work("score", "test", 2, 40), work("score", "hard_pool", 3, 60)]
    ),
    "experts/round-02": stage_cost([work("train", "", 10, 610)]),
    "experts/round-02/scores": stage_cost(
        [work("score", "train", 5, 110), work("score", "test", 2, 44), work("score", "hard_pool", 3, 66)]
    ),
    "experts/round-021": stage_cost([work("train", "", 10, 9999)]),
    "labels/ensemble": stage_cost([work("score", "together", 1, 7)]),
    "student/ensemble": stage_cost([work("train", "", 10, 3000)]),
    "student/ensemble/scores": stage_cost([work("score", "test", 2, 200)]),
}
EXPERTS = ["experts/round-01", "experts/round-02"]


def test_pieces_of_a_stage_are_put_together():
    cost = stage_cost([work("score", "together", 4, 8), work("train", "", 1, 6), work("score", "together", 5, 10)])
    assert (cost.tokens, cost.flops) == (10, 24)
    assert [(p.kind, p.what, p.tokens, p.flops) for p in cost.work] == [
        ("score", "together", 9, 18),
        ("train", "", 1, 6),
    ]
    assert flops_of({"a": cost}, ["a", "missing"], "score") == 18
    assert flops_of({"a": cost}, ["a"], "score", "test") == 0


def test_arms_as_if_built_alone():
    single = arm_cost("single", EXPERTS[:1], STAGES, 4)
    assert (single.training, single.scoring, single.labelling, single.total) == (600, 0, 0, 600)
    assert single.answer == 10.0
    bagging = arm_cost("bagging", EXPERTS, STAGES, 4)
    assert (bagging.total, bagging.answer) == (1210, 21.0)
    ensemble = arm_cost("ensemble", EXPERTS, STAGES, 4)
    assert (ensemble.training, ensemble.scoring, ensemble.total) == (1210, 210, 1420)
    student = arm_cost("student_ensemble", ["student/ensemble"], STAGES, 4, EXPERTS)
    assert student.training == 3000 + 1210
    assert student.scoring == 210
    assert student.labelling == 60 + 66 + 7
    assert student.total == 3000 + 1210 + 210 + 133
    assert student.answer == 50.0


def test_helpers_of_the_rounds_in_use_are_part_of_the_cost():
    """Cross-fitted errors of two rounds: four helpers, and two of a round that validation did not choose."""
    helpers = {}
    for t in (1, 2, 3):
        for fold in (1, 2):
            name = f"experts/helpers/round-{t:02d}-fold-{fold}"
            helpers[name] = stage_cost([work("train", "", 5, 300 * t)])
            helpers[f"{name}/scores"] = stage_cost([work("score", "train", 5, t)])
    stages = STAGES | helpers
    ensemble = arm_cost("ensemble", EXPERTS, stages, 4)
    assert (ensemble.training, ensemble.scoring) == (1210 + 2 * 300 + 2 * 600, 210 + 2 + 4)
    assert ensemble.answer == 21.0
    student = arm_cost("student_ensemble", ["student/ensemble"], stages, 4, EXPERTS)
    assert (student.training, student.scoring) == (3000 + ensemble.training, ensemble.scoring)
    for name, members in (("bagging", EXPERTS), ("ensemble", EXPERTS[:1]), ("plain", EXPERTS[:1])):
        assert arm_cost(name, members, stages, 4) == arm_cost(name, members, STAGES, 4)
    second = arm_cost("expert_2", EXPERTS[1:], stages, 4, before=EXPERTS[:1])
    assert (second.training, second.scoring, second.answer) == (1210 + 2 * 300, 100 + 2, 11.0)


def test_a_base_costs_nothing_to_build():
    base = arm_cost("weak_zero_shot", ["baselines/zero-shot-weak"], STAGES, 4)
    assert (base.total, base.answer) == (0, 0.0)


def test_written_answers_are_counted_by_their_decoding():
    stages = STAGES | {"answers/ensemble/test": stage_cost([work("decode", "test", 30, 800)])}
    assert arm_cost("ensemble", EXPERTS, stages, 4, answers="answers/ensemble/test").answer == 200.0
    pool = {"answers/experts/round-01/hard_pool": stage_cost([work("decode", "hard_pool", 9, 50)])}
    student = arm_cost("student_ensemble", ["student/ensemble"], STAGES | pool, 4, EXPERTS)
    assert student.labelling == 60 + 66 + 7 + 50
