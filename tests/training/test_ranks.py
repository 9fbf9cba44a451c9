"""One process among several: its share, what it may say, and what ends it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from kdseg_train import ranks
from kdseg_train.methods import prepare
from kdseg_train.ranks import LeaderSpeaks, OthersLost, Ranks, summed
from napari_kdseg.errors import RecipeError, RunError, StopRequested


@pytest.mark.parametrize(
    ("number", "count", "share"),
    [(0, 1, [0, 1, 2, 3]), (0, 2, [0, 1]), (1, 2, [2, 3]), (3, 4, [3])],
)
def test_processes_have_equal_shares_of_a_batch_in_order(
    number: int, count: int, share: list[int]
) -> None:
    assert [*Ranks(number, count).share(4)] == share


@pytest.mark.parametrize(
    ("batch", "count", "fits"), [(5, 2, "4 or 6"), (1, 4, "to 4, or"), (7, 3, "6 or 9")]
)
def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_one_that_can(
    batch: int, count: int, fits: str
) -> None:
    with pytest.raises(RecipeError, match=rf"teacher.batch is {batch}, .*{fits}"):
        Ranks(0, count).share(batch, "teacher.batch")


def test_alone_nothing_is_changed_and_nobody_asked() -> None:
    own, values = Ranks(), torch.tensor([1.0, 2.0], requires_grad=True)
    with own.stage("training"):
        assert own.mean(values) is values
        assert summed(values) is values
        assert own.decided(2) == 2
    own.average([values])
    assert own.check_alike("abc") == ["abc"]
    assert own.leads


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that always holds ten times what this one does."""

    def all_reduce(values: torch.Tensor) -> None:
        values.mul_(11)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)


def test_what_is_averaged_keeps_its_shape_and_order(
    other: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "BUCKET_VALUES", 5)  # so they go in three parts
    given = [torch.ones(2, 2), torch.full((3,), 2.0), torch.full((7,), 4.0)]
    given[0] = given[0].t()
    Ranks(0, 2).average(given)
    # (1 + 10) / 2 = 5.5 times each
    assert [one.flatten().tolist() for one in given] == [
        [5.5] * 4,
        [11.0] * 3,
        [22.0] * 7,
    ]


def test_a_sum_over_processes_brings_the_gradients_of_all_losses(
    other: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_here", Ranks(0, 2, _in_stage=True))
    value = torch.tensor(3.0, requires_grad=True)
    # This one has 3, the other 30; the loss of both is 33 squared.
    loss = summed(value) ** 2
    loss.backward()
    assert loss.item() == 33**2
    # 2 * 33 from here and, in this made other, ten times that from there
    assert value.grad is not None
    assert value.grad.item() == 2 * 33 * 11


def test_outside_a_stage_a_sum_is_of_this_process_alone(
    other: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranks, "_here", Ranks(0, 2))
    assert summed(torch.tensor(3.0)).item() == 3


def test_processes_that_hold_different_weights_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gather(found: list[Any], one: Any, group: Any) -> None:
        found[:] = [one, "other"]

    monkeypatch.setattr(dist, "all_gather_object", gather)
    with pytest.raises(RunError, match=r"different weights \(own, other\)"):
        Ranks(0, 2).check_alike("own")


def test_what_all_decide_process_0_says_and_the_others_do_not() -> None:
    error = StopRequested("asked")
    assert Ranks(0, 2).of_all(error) is error
    assert isinstance(Ranks(1, 2).of_all(error), LeaderSpeaks)


def test_a_process_that_loses_the_others_says_so_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(values: torch.Tensor) -> None:
        raise RuntimeError("Connection closed by peer\n at 0x12")

    monkeypatch.setattr(dist, "all_reduce", broken)
    with pytest.raises(OthersLost, match=r"process 1 of 2 .* \(Connection closed by"):
        Ranks(1, 2).mean(torch.ones(1))


def test_followers_end_with_the_status_of_process_0(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def say(word: list[Any], src: int, group: Any) -> None:
        word[0] = 75

    monkeypatch.setattr(dist, "broadcast_object_list", say)
    with pytest.raises(SystemExit) as end:
        Ranks(1, 2).wait()
    assert end.value.code == 75


def test_a_follower_that_comes_to_another_stage_is_refused() -> None:
    follower = Ranks(1, 2, _told="student")
    with (
        pytest.raises(RunError, match="stage teacher and process 0 to student"),
        follower.stage("teacher"),
    ):
        pass


def test_a_recipe_whose_batch_cannot_be_shared_is_refused_before_a_run_is_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ranks, "_here", Ranks(0, 3))
    values = {"method": "ms-kd", "data": [{"path": "none"}], "training": {"batch": 4}}
    with pytest.raises(RecipeError, match=r"training.batch is 4, which 3 processes"):
        prepare(values, "recipe.yaml", tmp_path)
