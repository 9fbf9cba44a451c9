import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from napari_kdseg.errors import ModelError
from napari_kdseg.inference.estimate import estimate, together
from napari_kdseg.inference.settings import Settings
from napari_kdseg.inference.speeds import record_seconds, seconds_per_window
from napari_kdseg.models.model import Model, NetworkSpec, Tiling
from napari_kdseg.volumes.formats import inspect_volume, write_volume
from napari_kdseg.volumes.formats.header import Header
from napari_kdseg.volumes.preprocessing import Preprocessing
from napari_kdseg.volumes.volume import Grid, Volume

Make = Callable[..., Any]

pytestmark = pytest.mark.usefixtures("own_cache")
PLAIN = Settings(device="cpu", uncertainty=None)


def _header(volume: Volume) -> Header:
    kind = np.dtype(volume.data.dtype)
    return Header(Path("scan.nii.gz"), volume.grid, volume.channels, kind, packed=True)


@pytest.fixture
def header(make_volume: Make) -> Callable[[tuple[int, int, int]], Header]:
    """The header of a 16-bit scan of some size."""
    return lambda shape: _header(make_volume(data=np.zeros((1, *shape), np.int16)))


def test_memory_follows_the_formula(make_model: Make, header: Make) -> None:
    model = make_model((16, 16, 16), tiling=Tiling(tile_vox=(16, 16, 16), batch=2))
    weights = (model.folder / "weights.safetensors").stat().st_size
    # Tiles of 16 every 8 voxels: 8 planes wait, a row of windows is 16 x 16 x 32.
    expected = (
        2 * 32**3  # stored, int16
        + 4 * 4 * (8 * 32 * 32 + 16 * 16 * 32)  # four classes
        + 2 * 16 * 32 * 32  # the last slab of labels, and that before
        + 4 * 2 * 16**3 * (1 + 4)  # two windows and their logits
        + 4 * 2 * 16**3 * (5 * 4 + 2 * 4)  # layers of width 4
        + weights
        + 150_000_000  # what torch sets up
    )
    assert estimate(header((32, 32, 32)), [model], PLAIN).host_bytes == expected


def test_memory_beyond_the_scan_does_not_grow_with_its_length(
    make_model: Make, header: Make
) -> None:
    model = make_model()
    short, long = header((32, 32, 32)), header((320, 32, 32))
    for settings in (PLAIN, Settings("cpu"), Settings("cpu", probabilities=True)):
        assert (
            estimate(short, [model], settings).host_bytes - short.bytes
            == estimate(long, [model], settings).host_bytes - long.bytes
        )


def test_a_scan_counts_where_it_is_decoded_whole(
    make_model: Make, header: Make
) -> None:
    packed = header((32, 32, 32))
    large = replace(packed, grid=replace(packed.grid, shape=(2**14, 2**7, 2**7 + 1)))
    pieces = replace(packed, packed=False)
    model = make_model()
    need = [estimate(scan, [model], PLAIN).host_bytes for scan in (packed, pieces)]
    assert need[0] - need[1] == packed.decoded_bytes == packed.bytes
    # Above half a gigabyte it is converted, and read by pieces then.
    assert large.bytes > 2**29
    assert large.decoded_bytes == pieces.decoded_bytes == 0


def test_on_a_card_lies_what_is_computed_and_beside_it_what_is_kept(
    make_model: Make, header: Make
) -> None:
    model = make_model((16, 16, 16), tiling=Tiling(tile_vox=(16, 16, 16), batch=2))
    weights = (model.folder / "weights.safetensors").stat().st_size
    settings = Settings("cuda", uncertainty=None)
    found = estimate(header((32, 32, 32)), [model], settings)
    assert found.place == "cuda"
    sums = 4 * 4 * (8 * 32 * 32 + 16 * 16 * 32)
    # A window, its logits, and layers of width 4 in halves.
    window = 16**3 * (4 * (1 + 4) + 2 * (5 * 4 + 2 * 4))
    assert found.device_bytes == sums + 2 * window + weights
    assert found.window_bytes == sums + window + weights
    assert found.least_bytes < found.window_bytes
    kept = 2 * 32**3 + 2 * 16 * 32 * 32  # the scan, two slabs of labels
    on_the_way = 4 * 2 * 16**3 + weights
    assert found.host_bytes == kept + on_the_way + 1_150_000_000
    whole = estimate(
        header((32, 32, 32)), [model], replace(settings, precision="float32")
    )
    assert whole.device_bytes - found.device_bytes == 2 * 16**3 * 2 * (5 * 4 + 2 * 4)


def test_a_processor_uses_no_card(make_model: Make, header: Make) -> None:
    found = estimate(header((32, 32, 32)), [make_model()], PLAIN)
    assert found.device_bytes == found.window_bytes == found.least_bytes == 0


def test_a_composite_holds_its_results_whole_beside_another_model_alone(
    make_model: Make, header: Make
) -> None:
    resized = Preprocessing(resize_vox=(16, 16, 16))
    coarse = make_model((16, 16, 16), seed=1, preprocessing=resized)
    fine, other = make_model((16, 16, 16), seed=2), make_model((16, 16, 16), seed=3)
    both = Model.paired(coarse, fine)
    small, large = header((32, 32, 32)), header((128, 128, 128))
    found = estimate(small, [both], PLAIN)
    assert found.windows == 1 + estimate(small, [fine], PLAIN).windows

    def grown(*models: Model) -> int:
        bytes_of = [estimate(one, models, PLAIN).host_bytes for one in (small, large)]
        return bytes_of[1] - bytes_of[0]

    assert grown(both) == grown(fine)
    # Of each voxel: labels of two models, once more those of the composite, and
    # numbers of components.
    more = (128**3 - 32**3) * (2 * 1 + 1 + 8)
    assert grown(both, other) - grown(both) == pytest.approx(more, rel=0.01)


def test_what_follows_one_another_takes_the_most_of_them_and_the_time_of_all(
    make_model: Make, header: Make
) -> None:
    model = make_model((16, 16, 16))
    record_seconds(model.card, "cpu", (16, 16, 16), 0.5, 1)
    scans = (header((32, 32, 32)), header((64, 64, 64)))
    small, large = (estimate(scan, [model], PLAIN) for scan in scans)
    both = together([small, large])
    assert both.host_bytes == large.host_bytes
    assert both.seconds == (small.seconds or 0) + (large.seconds or 0)
    assert together([small, replace(large, seconds=None)]).seconds is None


def test_uncertainty_and_probabilities_cost_memory(
    make_model: Make, header: Make
) -> None:
    model, scan = make_model(), header((32, 32, 32))
    sizes = [
        estimate(scan, [model], settings).host_bytes
        for settings in (PLAIN, Settings("cpu"), Settings("cpu", probabilities=True))
    ]
    assert sizes == sorted(set(sizes))


def test_windows_are_counted_over_all_models(make_model: Make, header: Make) -> None:
    models = [make_model((16, 16, 16)), make_model((16, 16))]
    # 3 x 3 x 3 blocks, and 3 x 3 windows in each of 32 slices.
    assert estimate(header((32, 32, 32)), models, PLAIN).windows == 27 + 288


def test_without_a_measurement_there_are_no_seconds(
    make_model: Make, header: Make
) -> None:
    found = estimate(header((32, 32, 32)), [make_model()], PLAIN)
    assert found.seconds is None
    assert found.reason == "time not known before a first run on cpu"


def test_seconds_come_from_the_measurement_of_the_device(
    make_model: Make, header: Make
) -> None:
    model = make_model((16, 16, 16))
    record_seconds(model.card, "cpu", (16, 16, 16), 0.5, 1)
    record_seconds(model.card, "cuda:1", (16, 16, 16), 0.01, 1)
    scan = header((32, 32, 32))
    assert estimate(scan, [model], PLAIN).seconds == pytest.approx(27 * 0.5)
    on_cuda = estimate(scan, [model], Settings("auto"), device="cuda:0").seconds
    assert on_cuda == pytest.approx(27 * 0.01)


def test_another_tile_takes_time_in_proportion(make_model: Make, header: Make) -> None:
    model = make_model((16, 16, 16))
    record_seconds(model.card, "cpu", (16, 16, 16), 0.8, 1)
    settings = Settings("cpu", uncertainty=None, tile=(8, 8, 8))
    # Windows of an eighth of the voxels, every 4 voxels: 3 along each axis of 16.
    found = estimate(header((16, 16, 16)), [model], settings).seconds
    assert found == pytest.approx(27 * 0.1)


def test_networks_of_one_shape_share_a_measurement(
    make_model: Make, header: Make
) -> None:
    record_seconds(make_model((16, 16, 16)).card, "cpu", (16, 16, 16), 0.5, 1)
    scan = header((32, 32, 32))
    assert estimate(scan, [make_model((16, 16, 16), seed=1)], PLAIN).seconds is not None
    assert (
        estimate(scan, [make_model((16, 16, 16), ("a",), seed=2)], PLAIN).seconds
        is None
    )


def test_a_measurement_that_is_confirmed_stays(make_model: Make) -> None:
    card, tile = make_model((16, 16, 16)).card, (16, 16, 16)
    for measured, kept in ((0.5, 0.5), (0.9, 0.5), (1.1, 1.1)):
        record_seconds(card, "cpu", tile, measured, 1)
        assert seconds_per_window(card, "cpu", tile) == kept


def test_a_run_of_a_moment_does_not_undo_what_a_long_one_measured(
    make_model: Make,
) -> None:
    card, tile = make_model((16, 16, 16)).card, (16, 16, 16)
    for seconds, windows, kept in (
        (3, 1, 3),
        (60, 120, 0.5),
        (3, 1, 0.5),
        (7, 7, 0.5),
        (8, 4, 2),
    ):
        record_seconds(card, "cpu", tile, seconds, windows)
        assert seconds_per_window(card, "cpu", tile) == pytest.approx(kept)


WAYS = {
    "as it is": PLAIN,
    "threads": replace(PLAIN, threads=1),
    "precision": replace(PLAIN, precision="bfloat16"),
    "backend": replace(PLAIN, backend="openvino"),
    "flips": replace(PLAIN, uncertainty="test-time-variance"),
}


@pytest.mark.parametrize("measured", WAYS)
def test_each_way_to_compute_has_a_measurement_of_its_own(
    make_model: Make, header: Make, measured: str
) -> None:
    model, scan = make_model((16, 16, 16)), header((32, 32, 32))
    record_seconds(model.card, "cpu", (16, 16, 16), 0.5, 1, WAYS[measured])
    known = {
        name: estimate(scan, [model], settings).seconds
        for name, settings in WAYS.items()
    }
    assert known.pop(measured) == pytest.approx(27 * 0.5)
    assert set(known.values()) == {None}


def test_a_mirrored_model_has_a_measurement_of_its_own(make_model: Make) -> None:
    tile = (16, 16, 16)
    mirrored = make_model(tile, tiling=Tiling(tile_vox=tile, mirror=(0, 1))).card
    record_seconds(mirrored, "cpu", tile, 0.5, 1)
    plain = mirrored.model_copy(update={"tiling": Tiling(tile_vox=tile)})
    assert seconds_per_window(plain, "cpu", tile) is None


def test_what_changes_no_time_shares_a_measurement(make_model: Make) -> None:
    card, tile = make_model((16, 16, 16)).card, (16, 16, 16)
    halves = Settings(precision="float16", threads=2)
    record_seconds(card, "cuda:1", tile, 0.5, 1, halves)
    other = Settings(uncertainty="margin", probabilities=True, threads=8)
    assert seconds_per_window(card, "cuda", tile, other) == 0.5


def test_where_windows_may_be_passed_over_the_time_is_the_most(
    make_model: Make, header: Make
) -> None:
    model = make_model((16, 16, 16))
    record_seconds(model.card, "cpu", (16, 16, 16), 0.5, 1)
    found = estimate(header((32, 32, 32)), [model], replace(PLAIN, roi="coarse"))
    assert found.seconds == pytest.approx(27 * 0.5)
    assert found.reason.endswith("less where windows are passed over")


def test_a_composites_time_is_that_of_a_fine_model_which_sees_the_whole_scan(
    make_model: Make, header: Make
) -> None:
    resized = Preprocessing(resize_vox=(16, 16, 16))
    wide = NetworkSpec(
        name="unet", parameters={"dimensions": 3, "width": 8, "stages": 3}
    )
    coarse = make_model((16, 16, 16), seed=1, preprocessing=resized, network=wide)
    fine, scan = make_model((16, 16, 16)), header((32, 32, 32))
    both = Model.paired(coarse, fine)
    record_seconds(fine.card, "cpu", (16, 16, 16), 0.5, 1)
    assert estimate(scan, [both], PLAIN).seconds is None  # the coarse one is not known
    record_seconds(coarse.card, "cpu", (16, 16, 16), 2, 1)
    found = estimate(scan, [both], PLAIN)
    assert found.seconds == pytest.approx(2 + 27 * 0.5)
    assert found.reason.endswith("less where the fine model sees a part of the scan")


def test_a_measurement_leaves_the_model_folder_as_it_is(make_model: Make) -> None:
    model = make_model()
    before = {file: file.read_bytes() for file in model.folder.iterdir()}
    record_seconds(model.card, "cpu", (16, 16, 16), 0.5, 1)
    assert {file: file.read_bytes() for file in model.folder.iterdir()} == before


@pytest.mark.parametrize("text", ['{"cpu": {"tile_vox": [0]}', '{"cpu": []}', "[]"])
def test_a_spoiled_measurement_counts_as_none(
    make_model: Make, own_cache: Path, text: str
) -> None:
    card, tile = make_model().card, (16, 16, 16)
    record_seconds(card, "cpu", tile, 0.5, 1)
    [file] = own_cache.rglob("*.json")
    file.write_text(text)
    assert seconds_per_window(card, "cpu", tile) is None


def test_a_scan_that_does_not_fit_has_no_estimate(
    make_model: Make, make_volume: Make
) -> None:
    scan = _header(make_volume(channels=("t1", "t2")))
    with pytest.raises(ModelError, match="2 channels"):
        estimate(scan, [make_model()], PLAIN)


def test_an_estimate_needs_no_torch() -> None:
    code = (
        "import sys, napari_kdseg.inference.estimate, napari_kdseg.inference.regions;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---- Measured ----

PEAK = """
import json, sys
from pathlib import Path
import numpy as np
import psutil
from kdseg_train.allocation import keep_freed_memory
from napari_kdseg.inference.coarse_to_fine import predict_any_tiles
from napari_kdseg.inference.settings import Settings
from napari_kdseg.models.model import Model
from napari_kdseg.volumes.opening import open_scan

scan, settings, *folders = sys.argv[1:]
models = [Model.open(Path(folder)) for folder in folders]
if len(models) == 2:
    models = [Model.paired(*models)]
keep_freed_memory()  # as the commands do
before = psutil.Process().memory_info().rss
chosen = Settings(device="cpu", threads=1, **json.loads(settings))
for tile in predict_any_tiles(open_scan(Path(scan)), models, chosen):
    del tile
# ru_maxrss would count what the process was forked from.
lines = Path("/proc/self/status").read_text().splitlines()
peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
print(peak * 1024 - before)
"""
SLACK = 150_000_000
"""What is foreseen for torch and the C library, whether they take it or not."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
@pytest.mark.parametrize(
    ("tiling", "changes", "packed"),
    [
        (Tiling(tile_vox=(64, 64, 64), batch=2), {"uncertainty": None}, True),
        (Tiling(tile_vox=(64, 64, 64), batch=4), {"uncertainty": "entropy"}, False),
        (
            Tiling(tile_vox=(64, 64, 64), batch=2),
            {"uncertainty": "test-time-variance"},
            False,
        ),
        (
            Tiling(tile_vox=(96, 96), batch=32),
            {"uncertainty": "entropy", "probabilities": True},
            False,
        ),
    ],
    ids=["labels", "entropy", "test-time-variance", "slices"],
)
def test_memory_is_about_that_which_a_prediction_takes(
    make_model: Make,
    tmp_path: Path,
    tiling: Tiling,
    changes: dict[str, Any],
    packed: bool,
) -> None:
    model = make_model(tiling.tile_vox, tiling=tiling)
    scan = _scan_of(tmp_path, packed)
    measured = _measured(scan, changes, model)
    settings = Settings("cpu", threads=1, **changes)
    foreseen = estimate(inspect_volume(scan), [model], settings).host_bytes
    assert measured <= foreseen <= 3 * measured + SLACK


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")
def test_memory_of_a_composite_is_about_that_which_it_takes(
    make_model: Make, tmp_path: Path
) -> None:
    pair = make_model((32, 32, 32), seed=1), make_model((64, 64, 64), seed=2)
    scan = _scan_of(tmp_path, True)
    changes = {"uncertainty": "entropy", "probabilities": True}
    measured = _measured(scan, changes, *pair)
    settings = Settings("cpu", threads=1, **changes)
    both = Model.paired(*pair)
    foreseen = estimate(inspect_volume(scan), [both], settings).host_bytes
    assert measured <= foreseen <= 3 * measured + SLACK


def _scan_of(folder: Path, packed: bool) -> Path:
    shape = (96, 96, 96)
    voxels = np.random.default_rng(0).integers(0, 1000, shape).astype(np.int16)
    scan = folder / ("scan.nii.gz" if packed else "scan.nii")
    write_volume(scan, voxels, Grid.from_affine(np.eye(4), shape))
    return scan


def _measured(scan: Path, settings: dict[str, Any], *models: Model) -> int:
    """Peak memory of a prediction in a process of its own, beyond its imports."""
    words = [str(scan), json.dumps(settings), *(str(one.folder) for one in models)]
    ended = subprocess.run(
        [sys.executable, "-c", PEAK, *words], check=True, capture_output=True, text=True
    )
    return int(ended.stdout)
