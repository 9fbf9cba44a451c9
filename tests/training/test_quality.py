"""Verdicts, and the classifier that learns from them: by hand, by reference, whole."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from kdseg_train import cli
from kdseg_train.by_scan import Judgements, Plan, folds, parts, planned
from kdseg_train.calibration import at_precision, calibrate, p_good, platt, youden
from kdseg_train.calibration import table as rows_of
from kdseg_train.classifier import (
    JudgedSlice,
    JudgedSource,
    balanced_cross_entropy,
)
from kdseg_train.classifier_settings import ClassifierSettings
from kdseg_train.quality import FitConfig, fit
from napari_kdseg.errors import DataSetError, StopRequested
from napari_kdseg.inference.quality import Judged
from napari_kdseg.models.model import Model
from napari_kdseg.review.verdicts import (
    Verdict,
    drawn,
    read_verdicts,
    settled,
    slice_dice,
    write_verdicts,
)
from napari_kdseg.runs.run import Run
from napari_kdseg.volumes.formats import write_labels, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.volume import Grid

HEADER = "case,axis,index,verdict,source,labels_hash,reviewer\n"


def said(word: Any, reviewer: str = "", index: int = 0) -> Verdict:
    return Verdict("fish", 0, index, word, "human", "", reviewer)


# ---- verdicts as a table ----


def test_verdicts_come_back_as_they_were_written(tmp_path: Path) -> None:
    verdicts = (
        Verdict("fish, old", 2, 17, "good", "human", "ab12", "Ada"),
        Verdict("fish", 0, 0, "unsure", "imported"),
    )
    write_verdicts(tmp_path / "v.csv", verdicts)
    assert read_verdicts(tmp_path / "v.csv") == verdicts


def test_hash_and_reviewer_may_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "v.csv").write_text("case,axis,index,verdict,source\na,0,3,BAD,human\n")
    assert read_verdicts(tmp_path / "v.csv") == (Verdict("a", 0, 3, "bad", "human"),)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,3,0,good,human,,", "line 2: axis is '3'; write 0, 1 or 2"),
        ("a,z,0,good,human,,", "axis is 'z'"),
        ("a,0,-1,good,human,,", "index is '-1'; write a whole number from 0"),
        ("a,0,1.5,good,human,,", "index is '1.5'"),
        ("a,0,0,fine,human,,", "verdict is 'fine'; write one of good, bad, unsure"),
        ("a,0,0,good,me,,", "source is 'me'; write one of human, simulated, imported"),
        (" ,0,0,good,human,,", "case is empty"),
        ("a,0", "index is ''"),
    ],
)
def test_a_line_that_is_no_verdict_is_named(
    tmp_path: Path, line: str, says: str
) -> None:
    (tmp_path / "v.csv").write_text(HEADER + line + "\n")
    with pytest.raises(DataSetError, match=says.replace("(", r"\(")):
        read_verdicts(tmp_path / "v.csv")


@pytest.mark.parametrize("content", [b"", b"case,axis\n", b"\xff\xfe\x00"])
def test_a_file_that_holds_no_verdicts_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "v.csv").write_bytes(content)
    with pytest.raises(DataSetError, match=r"v\.csv (has no column|cannot be read)"):
        read_verdicts(tmp_path / "v.csv")


def test_most_reviewers_decide_and_ties_stay_out() -> None:
    verdicts = [
        *(said("good", name, 0) for name in "ab"),
        said("bad", "c", 0),
        said("good", "a", 1),
        said("bad", "b", 1),
        said("unsure", "a", 2),
        said("bad", "a", 3),
        said("unsure", "b", 3),
    ]
    found = settled(verdicts, "v")
    assert found == {("fish", 0, 0): True, ("fish", 0, 3): False}


def test_a_later_verdict_of_the_same_reviewer_counts() -> None:
    verdicts = [said("good", "a"), said("bad", "a"), said("good", "a", 1)]
    assert settled(verdicts, "v") == {("fish", 0, 0): False, ("fish", 0, 1): True}


def test_a_store_without_both_verdicts_is_refused() -> None:
    with pytest.raises(DataSetError, match="v comes to 2 good and 0 bad slices"):
        settled([said("good"), said("good", index=1), said("unsure", index=2)], "v")


# ---- verdicts from truth ----


def test_dice_of_a_slice_is_worked_out_by_hand() -> None:
    truth = np.array([[[1, 1, 2, 0]], [[0, 0, 0, 0]], [[1, 0, 0, 0]]])
    guess = np.array([[[1, 0, 2, 2]], [[0, 0, 0, 0]], [[0, 0, 0, 3]]])
    # class 1: 2*1/(2+1), class 2: 2*1/(1+2), mean 2/3; empty; two classes missed
    found = slice_dice(truth, guess)
    assert found[[0, 2]] == pytest.approx([2 / 3, 0])
    assert math.isnan(found[1])


def test_so_many_slices_are_drawn_and_the_same_for_a_seed() -> None:
    places = [("a", z) for z in range(50)]
    first, again, other = (list(drawn(places, 10, seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 10
    assert list(drawn(places, None, 0)) == list(drawn(places, 50, 0)) == places


# ---- the loss ----


def test_balanced_cross_entropy_is_worked_out_by_hand() -> None:
    # one good of four: it weighs 2, a bad one 2/3; at 0 each costs ln 2
    answer, good = torch.zeros(4), torch.tensor([1.0, 0, 0, 0])
    found = balanced_cross_entropy(answer, good, share_good=0.25)
    assert found.item() == pytest.approx((2 + 3 * 2 / 3) / 4 * math.log(2))


def test_balanced_cross_entropy_agrees_with_a_reference() -> None:
    generator = np.random.default_rng(0)
    answer, good = generator.normal(size=50) * 3, generator.random(50) < 0.2
    prob = 1 / (1 + np.exp(-answer))
    weight = np.where(good, 0.5 / 0.2, 0.5 / 0.8)
    wanted = -(weight * np.log(np.where(good, prob, 1 - prob))).mean()
    found = balanced_cross_entropy(
        torch.from_numpy(answer), torch.from_numpy(good).double(), 0.2
    )
    assert found.item() == pytest.approx(wanted, abs=1e-12)


def test_extreme_answers_have_a_finite_loss_and_gradient() -> None:
    answer = torch.tensor([300.0, -300.0], requires_grad=True)
    loss = balanced_cross_entropy(answer, torch.tensor([0.0, 1.0]), 0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert answer.grad is not None
    assert answer.grad.tolist() == [0.5, -0.5]


# ---- how good it is ----


def judged_numbers(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Answers that mean P(good) = 1 / (1 + exp(-(2 z - 1)))."""
    generator = np.random.default_rng(0)
    answer = generator.normal(size=count)
    prob = 1 / (1 + np.exp(-(2 * answer - 1)))
    return answer, generator.random(count) < prob


def test_platt_finds_the_curve_that_verdicts_were_drawn_from() -> None:
    assert platt(*judged_numbers(40000)) == pytest.approx((2, -1), abs=0.06)


def test_platt_agrees_with_a_general_minimiser() -> None:
    answer, good = judged_numbers(200)
    high = (good.sum() + 1) / (good.sum() + 2)
    target = np.where(good, high, 1 / ((~good).sum() + 2))

    def loss(weights: np.ndarray) -> float:
        value = weights[0] * answer + weights[1]
        return float((np.logaddexp(0, value) - target * value).sum())

    best = minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert platt(answer, good) == pytest.approx(best, abs=1e-4)


def test_answers_without_an_error_keep_a_finite_curve() -> None:
    slope, intercept = platt(np.array([-9.0, -8, 8, 9]), np.array([0, 0, 1, 1], bool))
    assert 0 < slope < 10
    assert abs(intercept) < 1


def test_answers_the_wrong_way_round_are_not_turned() -> None:
    slope, _ = platt(np.array([3.0, 2, -2, -3]), np.array([0, 0, 1, 1], bool))
    assert slope == pytest.approx(1e-3)


def test_calibrated_numbers_are_shares() -> None:
    answer, good = judged_numbers()
    seen = 5 * answer + 3
    prob = p_good(calibrate(seen, good, "youden", 0.9), seen)
    for low in (0.1, 0.4, 0.7):
        there = (prob >= low) & (prob < low + 0.2)
        assert good[there].mean() == pytest.approx(prob[there].mean(), abs=0.05)


PROB = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
GOOD = np.array([0, 0, 1, 0, 1, 1], bool)


def test_youden_s_threshold_is_worked_out_by_hand() -> None:
    # from 0.3 on 3/3 good less 1/3 bad; from 0.7 on 2/3 less 0: equal, the surer wins
    threshold, chosen = youden(PROB, GOOD)
    assert threshold == pytest.approx(0.7)
    assert "0.667" in chosen


@pytest.mark.parametrize(("wanted", "threshold"), [(0.5, 0.1), (0.75, 0.3), (1, 0.7)])
def test_the_threshold_of_a_precision_is_the_lowest(
    wanted: float, threshold: float
) -> None:
    assert at_precision(PROB, GOOD, wanted)[0] == pytest.approx(threshold)


def test_a_precision_that_nothing_reaches_gives_the_best_there_is() -> None:
    threshold, chosen = at_precision(PROB, ~GOOD & (PROB < 0.5), 0.99)
    assert threshold == pytest.approx(0.1)
    assert "0.333 where 0.99 was asked" in chosen


def test_a_calibration_says_what_it_was_chosen_on() -> None:
    found = calibrate(*judged_numbers(200), "precision", 0.7, "out-of-fold")
    assert found.chosen.endswith("where 0.7 was asked, on out-of-fold slices")


def test_the_table_has_every_measure() -> None:
    rows = rows_of(PROB, GOOD)
    value = {(row["measure"], row["at"]): float(row["value"]) for row in rows}
    assert value["auroc", ""] == pytest.approx(8 / 9, abs=1e-6)
    assert value["precision", "0.5000"] == pytest.approx(2 / 3, abs=1e-6)
    assert value["recall", "0.5000"] == pytest.approx(2 / 3, abs=1e-6)
    assert value["share_good", "0.9000"] == 1


# ---- divided by scan, drawn by counter ----


def slices_of(cases: str, size: int = 32) -> list[JudgedSlice]:
    """Two slices a case: bright ones are good, where the case is written large."""
    made = []
    for number, case in enumerate(cases):
        for good in (True, False) if case.isupper() else (False,):
            generator = np.random.default_rng(number)
            image = generator.normal(size=(1, size, size)).astype(np.float32)
            labels = generator.integers(0, 3, (size, size)).astype(np.uint8)
            made.append(JudgedSlice(case, Judged(image + 3 * good, labels), good))
    return made


def judgements(cases: str) -> Judgements:
    slices = slices_of(cases)
    return Judgements([one.case for one in slices], [one.good for one in slices])


def scans_of(judged: Judgements, places: list[int]) -> set[str]:
    return {judged.scans[place] for place in places}


def test_no_scan_is_in_two_parts_and_all_have_both_verdicts() -> None:
    judged = judgements("AbcdEfgHi")
    for seed in range(5):
        found = parts(judged, [0.25, 0.2], seed)
        assert found is not None
        scans = [scans_of(judged, part) for part in found]
        assert [len(one) for one in scans] == [5, 2, 2]
        assert set.union(*scans) == set(judged.names)
        assert sum(map(len, found)) == len(judged.good)
        assert all(judged.both(part) for part in found)


def test_every_slice_is_left_out_once_and_the_others_have_both_verdicts() -> None:
    judged = judgements("AbcdE")
    for seed in range(5):
        found = folds(judged, 3, seed)
        assert found is not None
        assert sorted(place for part in found for place in part) == list(range(7))
        for part in found:
            others = sorted(set(range(7)) - set(part))
            assert judged.both(others)
            assert not scans_of(judged, part) & scans_of(judged, others)


def test_folds_have_about_as_many_slices() -> None:
    scans = ["large"] * 60 + ["middle"] * 30 + ["small"] * 20 + ["tiny"] * 10
    judged = Judgements(scans, [number % 2 == 0 for number in range(120)])
    for seed in range(5):
        found = folds(judged, 2, seed)
        assert found is not None
        assert max(map(len, found)) <= 90


@pytest.mark.parametrize(
    ("cases", "count", "kept"),
    [("ABC", None, 0), ("ABCDEFGHIJ", None, 2), ("ABC", 0, 1), ("ABCDEFGHIJ", 2, 0)],
)
def test_scans_are_divided_once_where_there_are_enough_or_it_is_asked(
    cases: str, count: int | None, kept: int
) -> None:
    judged = judgements(cases)
    plan = planned(judged, 0.25, 0.2, count, 0)
    assert len(scans_of(judged, plan.test)) == kept
    if kept:
        every = sorted([*plan.training, *plan.calibration, *plan.test])
        assert every == list(range(len(judged.good)))
        assert plan.folds == []
    else:
        everything = list(range(len(judged.good)))
        assert plan == Plan(everything, everything, [], plan.folds)


def test_nothing_is_kept_for_a_test_that_nobody_wants() -> None:
    plan = planned(judgements("ABCDEFGHIJ"), 0.25, 0, 0, 0)
    assert plan.test == []
    assert len(plan.training) + len(plan.calibration) == 20


def test_parts_that_lack_a_verdict_are_cross_fitted_instead() -> None:
    plan = planned(judgements("ABcdefghij"), 0.25, 0.2, 0, 0)
    assert len(plan.folds) == 3


@pytest.mark.parametrize(("cases", "scans"), [("A", "1 scan"), ("Abcd", "4 scans")])
def test_too_few_scans_with_good_slices_are_refused(cases: str, scans: str) -> None:
    with pytest.raises(DataSetError, match=f"of {scans} cannot .* of more scans"):
        planned(judgements(cases), 0.25, 0.2, None, 0)


def test_few_slices_take_few_steps_and_a_fold_takes_its_share() -> None:
    settings = ClassifierSettings(passes=30)
    steps = settings.training
    assert (steps.epochs, steps.iterations_per_epoch, steps.batch) == (20, 50, 16)
    assert settings.steps_for(1000).steps == 1000
    assert settings.steps_for(667, 667 / 1000 / 2).steps == 350
    assert settings.steps_for(120).steps == 200  # 30 times 120 slices, 16 a step
    assert settings.steps_for(2).steps == 50
    assert ClassifierSettings().steps_for(2).steps == 1000


def test_a_batch_of_a_step_is_always_the_same() -> None:
    settings = ClassifierSettings()
    sources = [JudgedSource(slices_of("ABC"), 2, settings, 0) for _ in range(2)]
    sources[0].batch(0)
    first, second = (source.batch(3) for source in sources)
    assert torch.equal(first.image, second.image)
    assert first.image.shape == (16, 3, 32, 32)
    masks = first.image[:, 1:]
    assert set(masks.unique().tolist()) == {0, 1}
    assert masks.sum(dim=1).max() == 1
    assert set(first.labels.tolist()) == {0, 1}


# ---- the commands, from scans to accepted slices ----


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans with a bright disc, their truth, and predictions of which half are off."""
    folder = tmp_path_factory.mktemp("material")
    grid = Grid.from_affine(np.eye(4), (8, 32, 32))
    classes = LabelSet.from_names(["disc"])
    y, x = np.ogrid[:32, :32]
    for number in range(4):
        generator = np.random.default_rng(number)
        truth = np.zeros(grid.shape, np.uint8)
        guess = np.zeros(grid.shape, np.uint8)
        for z in range(1, 8):
            truth[z] = (y - 12) ** 2 + (x - 12) ** 2 < 60
            off = 0 if z % 2 else 14
            guess[z] = (y - 12 - off) ** 2 + (x - 12) ** 2 < 60
        image = truth * 3 + generator.normal(size=grid.shape).astype(np.float32) / 4
        name = f"scan_{number}.nii.gz"
        for part in ("images", "truth", "guess"):
            (folder / part).mkdir(exist_ok=True)
        write_volume(folder / "images" / name, image[None].astype(np.float32), grid)
        write_labels(folder / "truth" / name, truth, grid, classes)
        write_labels(folder / "guess" / name, guess, grid, classes)
    return folder


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*words: object) -> tuple[int, str]:
        status = 0
        try:
            cli.main(["quality", *map(str, words)])
        except SystemExit as end:
            status = int(end.code or 0)
        return status, capsys.readouterr().err

    return run


def simulate(call: Any, material: Path, out: Path) -> None:
    words = ("--reference", material / "truth", "--labels", material / "guess")
    assert call("simulate", *words, "--out", out)[0] == 0


SMALL = {"size_vox": 32, "width": 4}
STEPS = {"epochs": 4, "iterations_per_epoch": 10, "batch": 8, "learning_rate": 0.003}


def config(material: Path, verdicts: Path, **changes: Any) -> dict[str, Any]:
    values = {
        "reviews": verdicts,
        "images": material / "images",
        "labels": material / "guess",
        "device": "cpu",
        "training": STEPS,
        **SMALL,
        **changes,
    }
    return FitConfig.model_validate(values).model_dump(mode="json")


def test_verdicts_from_truth_are_marked_and_empty_slices_left_out(
    call: Any, material: Path, tmp_path: Path
) -> None:
    simulate(call, material, tmp_path / "v.csv")
    verdicts = read_verdicts(tmp_path / "v.csv")
    assert len(verdicts) == 4 * 7
    assert {one.source for one in verdicts} == {"simulated"}
    assert {one.index for one in verdicts if one.verdict == "bad"} == {2, 4, 6}
    assert 0 not in {one.index for one in verdicts}
    assert all(len(one.labels_hash) == 64 for one in verdicts)


def test_a_limit_and_a_number_of_slices_can_be_given(
    call: Any, material: Path, tmp_path: Path
) -> None:
    words = ("--reference", material / "truth", "--labels", material / "guess")
    more = ("--out", tmp_path / "v.csv", "--slices", 9, "--bad-below", 1.0)
    status, said_ = call("simulate", *words, *more)
    assert status == 0
    assert "9 simulated verdicts" in said_


def test_from_verdicts_to_accepted_slices(
    call: Any, material: Path, tmp_path: Path
) -> None:
    simulate(call, material, tmp_path / "v.csv")
    sets = [f"size_vox={SMALL['size_vox']}", f"width={SMALL['width']}"]
    sets += [f"training.{key}={value}" for key, value in STEPS.items()]
    where = ("--images", material / "images", "--labels", material / "guess")
    status, told = call(
        "fit",
        *("--reviews", tmp_path / "v.csv", *where, "--out", tmp_path / "run"),
        *(word for one in sets for word in ("--set", one)),
    )
    assert status == 0, told
    model = Model.open(tmp_path / "run" / "model")
    assert model.card.role == "quality-classifier"
    assert model.card.classes.names == ("disc",)
    with (tmp_path / "run" / "metrics.csv").open(encoding="utf-8") as file:
        numbers = list(csv.DictReader(file))
    assert {row["measure"] for row in numbers} == (
        {"auroc", "brier", "precision", "recall", "share_good"}
    )
    assert {row["part"] for row in numbers} == {"out-of-fold"}
    with (tmp_path / "run" / "validation.csv").open(encoding="utf-8") as file:
        held_out = list(csv.DictReader(file))
    assert list(held_out[0]) == ["case", "axis", "index", "good", "p_good", "part"]
    assert len(held_out) == 4 * 7
    assert all((row["good"] == "1") == (int(row["index"]) % 2 == 1) for row in held_out)
    assert model.card.provenance.metrics["measured_on"] == "out-of-fold"
    assert model.card.calibration is not None
    assert model.card.calibration.chosen.endswith("on out-of-fold slices")

    scored = tmp_path / "scores.csv"
    words = ("--model", model.folder, "--image", material / "images")
    assert (
        call("score", *words, "--labels", material / "guess", "--out", scored)[0] == 0
    )
    with scored.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "axis", "index", "p_good"]
    assert len(rows) == 4 * 8
    even, odd = (
        np.mean([float(r["p_good"]) for r in rows if int(r["index"]) in picked])
        for picked in ((2, 4, 6), (1, 3, 5, 7))
    )
    assert odd > even

    kept = []
    for threshold in (0, 0.3, 0.6, 1.01):
        out = tmp_path / f"accepted-{threshold}.csv"
        words = ("--scores", scored, "--threshold", threshold, "--out", out)
        assert call("filter", *words)[0] == 0
        kept.append(set(out.read_text().splitlines()[1:]))
    assert len(kept[0]) == len(rows)
    assert not kept[3]
    assert kept[0] >= kept[1] >= kept[2] >= kept[3]


def test_a_stopped_training_resumes_to_the_same_weights(
    call: Any, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(call, material, tmp_path / "v.csv")
    values = config(material, tmp_path / "v.csv")
    whole, cut = (Run.create(tmp_path / name, values) for name in ("whole", "cut"))
    with whole.executing():
        fit(whole)
    progress = Run.progress

    def stop_soon(self: Run, step: int, total: int, stage: str = "") -> None:
        progress(self, step, total, stage=stage)
        if step == 13:
            self.request_stop()

    with monkeypatch.context() as patched:
        patched.setattr("kdseg_train.loop.PROGRESS_SECONDS", 0.0)
        patched.setattr(Run, "progress", stop_soon)
        with pytest.raises(StopRequested), cut.executing():
            fit(cut)
    assert not cut.model_folder.exists()
    with cut.executing():
        fit(cut)
    weights = "weights.safetensors"
    assert (cut.model_folder / weights).read_bytes() == (
        whole.model_folder / weights
    ).read_bytes()
    assert Model.open(cut.model_folder).card.calibration == (
        Model.open(whole.model_folder).card.calibration
    )


def refused(material: Path, folder: Path, verdicts: list[Verdict], says: str) -> None:
    write_verdicts(folder / "v.csv", verdicts)
    run = Run.create(folder / "run", config(material, folder / "v.csv"))
    with pytest.raises(DataSetError, match=says), run.executing():
        fit(run)
    assert not run.model_folder.exists()


def on(case: str, index: int, digest: str = "") -> list[Verdict]:
    return [
        Verdict(case, 0, index, "good", "human", digest),
        Verdict("scan_1", 0, 1, "bad", "human"),
    ]


def test_verdicts_on_other_labels_are_refused(material: Path, tmp_path: Path) -> None:
    verdicts = on("scan_0", 1, "f" * 64)
    says = r"0 good and 1 bad slices.* 1 verdicts are left out.* 1 of scan_0, labels ff"
    refused(material, tmp_path, verdicts, says)


def test_verdicts_beyond_the_scan_are_refused(material: Path, tmp_path: Path) -> None:
    refused(material, tmp_path, on("scan_0", 8), "slice 8 along axis 0 .* which has 8")


def test_verdicts_on_an_unknown_scan_are_refused(
    material: Path, tmp_path: Path
) -> None:
    says = "0 good and 1 bad slices.* left out.* slice 1 of scan_9, labels unknown"
    refused(material, tmp_path, on("scan_9", 1), says)


def test_verdicts_of_one_kind_are_refused_before_there_is_a_run(
    call: Any, material: Path, tmp_path: Path
) -> None:
    write_verdicts(tmp_path / "v.csv", on("scan_0", 1)[:1])
    where = ("--images", material / "images", "--labels", material / "guess")
    status, told = call(
        "fit", "--reviews", tmp_path / "v.csv", *where, "--out", tmp_path / "run"
    )
    assert status == 2
    assert "1 good and 0 bad" in told
    assert not (tmp_path / "run").exists()


def test_a_table_that_holds_no_scores_is_refused(call: Any, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("case,axis\na,0\n")
    words = ("--scores", tmp_path / "s.csv", "--threshold", 0.5)
    status, told = call("filter", *words, "--out", tmp_path / "o.csv")
    assert status == 2
    assert "is no table of scores" in told


@pytest.mark.parametrize("command", ["fit", "score", "filter", "simulate"])
def test_every_command_has_help(call: Any, command: str) -> None:
    assert call(command, "--help")[0] == 0
