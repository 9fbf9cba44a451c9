"""A project: scans by reference or copied, found after a move, never half kept."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest

from napari_kdseg.errors import GridError, ProjectError, VolumeError
from napari_kdseg.project import Project
from napari_kdseg.project_folder import DOCUMENT, PREVIOUS, is_project
from napari_kdseg.volumes.formats import read_labels, read_volume, write_volume
from napari_kdseg.volumes.labels import LabelSet
from napari_kdseg.volumes.scan import NewScan, VolumeFile
from napari_kdseg.volumes.volume import Grid

SHAPE = (4, 6, 8)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a small NIfTI file below the test's folder."""

    def written(name: str, spacing: float = 1.0, **changes: object) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = changes.get("shape", SHAPE)
        affine = np.diag([-spacing, spacing, 2.0, 1.0])
        affine[0, 3] = changes.get("shift", 0.0)
        voxels = changes.get("voxels", np.arange(np.prod(shape)).reshape(shape))
        write_volume(path, voxels.astype(np.int16), Grid.from_affine(affine, shape))
        return path

    return written


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Project.create(tmp_path / "project", "Fish") as made:
        yield made


def files(*paths: Path, **changes: object) -> NewScan:
    return NewScan(tuple(VolumeFile(path) for path in paths), **changes)


def channels(**paths: Path) -> NewScan:
    return NewScan(tuple(VolumeFile(path, None, name) for name, path in paths.items()))


def reopened(project: Project) -> Project:
    project.close()
    return Project.open(project.folder)


# ---- Opening ----


def test_a_project_is_found_again_as_it_was_left(
    project: Project, write: Write
) -> None:
    project.add_scan(files(write("a.nii.gz")))
    project.set_use("a", "test")
    project.set_classes(LabelSet.from_names(["spleen"]))
    with reopened(project) as again:
        assert (again.name, again.classes) == ("Fish", LabelSet.from_names(["spleen"]))
        assert again.scans == project.scans
        assert again.state("a").words == "held out"
        assert again.notes == ()


def test_a_project_has_its_folders(project: Project) -> None:
    there = {entry.name for entry in project.folder.iterdir() if entry.is_dir()}
    assert there == {"scans", "predictions", "corrections", "models", "runs"}


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"has no project\.json"):
        Project.open(tmp_path)
    assert not is_project(tmp_path)


def test_a_project_is_not_made_twice(project: Project) -> None:
    with pytest.raises(ProjectError, match="already"):
        Project.create(project.folder)


def test_a_newer_project_asks_for_an_update(project: Project) -> None:
    project.close()
    document = project.folder / DOCUMENT
    document.write_text(json.dumps(json.loads(document.read_text()) | {"version": 2}))
    with pytest.raises(ProjectError, match=r"version 2.*Update"):
        Project.open(project.folder)
    # What refused to open is not locked either.
    assert not (project.folder / "lock").exists()


def test_a_damaged_file_gives_way_to_the_last_good_copy(
    project: Project, write: Write
) -> None:
    project.add_scan(files(write("a.nii.gz")))
    project.add_scan(files(write("b.nii.gz")))
    project.close()
    document = project.folder / DOCUMENT
    document.write_text(document.read_text()[:-40])
    with Project.open(project.folder) as again:
        assert [scan.case for scan in again.scans] == ["a"]
        assert "is damaged" in again.notes[0]
    # The good copy is the project now, and the damaged file is kept.
    with Project.open(project.folder) as healed:
        assert healed.notes == ()
        assert [scan.case for scan in healed.scans] == ["a"]
    assert (project.folder / "project.json.damaged").is_file()


def test_without_a_good_copy_damage_is_told(project: Project) -> None:
    project.close()
    (project.folder / DOCUMENT).write_text('{"version": 1, "name": 7}')
    (project.folder / PREVIOUS).unlink(missing_ok=True)
    with pytest.raises(ProjectError, match="name: Input should be a valid string"):
        Project.open(project.folder)


@pytest.mark.parametrize("case", ["../out", "a/b", ".hidden", "", "x.partial-1"])
def test_a_file_cannot_smuggle_a_path_in_as_a_name(
    project: Project, write: Write, case: str
) -> None:
    project.add_scan(files(write("a.nii.gz")))
    project.close()
    document = project.folder / DOCUMENT
    stored = json.loads(document.read_text())
    stored["scans"][0]["case"] = case
    document.write_text(json.dumps(stored))
    (project.folder / PREVIOUS).unlink()
    with pytest.raises(ProjectError, match="is damaged"):
        Project.open(project.folder)


# ---- One writer ----


def test_a_second_viewer_looks_on_and_is_told_who_writes(
    project: Project, write: Write
) -> None:
    project.add_scan(files(write("a.nii.gz")))
    with Project.open(project.folder) as second:
        assert not second.writable
        assert f"process {os.getpid()} on " in second.notes[0]
        assert second.state("a").words == "new"
        with pytest.raises(ProjectError, match="can only be looked at"):
            second.set_use("a", "training")
    assert project.writable
    with reopened(project) as third:
        assert third.writable


def test_a_viewer_that_died_does_not_keep_the_project(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom napari_kdseg.project import Project"
        f"\nProject.create(Path({str(tmp_path / 'p')!r}))\nos._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "p" / "lock").exists()
    with Project.open(tmp_path / "p") as project:
        assert project.writable


def test_a_closed_project_takes_no_changes(project: Project, write: Write) -> None:
    project.close()
    with pytest.raises(ProjectError, match="was closed"):
        project.add_scan(files(write("a.nii.gz")))


def test_a_change_that_cannot_be_written_is_not_half_made(
    project: Project, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("napari_kdseg.project.write_text_atomic", full)
    with pytest.raises(ProjectError, match="No space left"):
        project.add_scan(files(write("a.nii.gz")))
    monkeypatch.undo()
    assert project.scans == ()
    with reopened(project) as again:
        assert again.scans == ()


def test_what_a_crash_left_half_made_is_removed(project: Project) -> None:
    project.close()
    folder = project.folder
    for left in ("project.json.partial-1", "scans/a.partial-2/t1.nii", "keep.txt"):
        (folder / left).parent.mkdir(exist_ok=True)
        (folder / left).write_text("half")
    # A prediction may be under way in another process.
    (folder / "predictions" / "a.partial-3").mkdir()
    Project.open(folder).close()
    names = {entry.name for entry in folder.rglob("*")}
    assert {"a.partial-3", "keep.txt"} <= names
    assert not names & {"project.json.partial-1", "a.partial-2"}


# ---- Adding ----


def test_a_scan_is_described_by_its_files(project: Project, write: Write) -> None:
    new = channels(t1=write("anna/t1.nii.gz"), t2=write("anna/t2.nii.gz"))
    scan = project.add_scan(new)
    assert scan.case == "t1"
    assert scan.channels == ("t1", "t2")
    assert scan.badge == "LAS, 1.0 x 1.0 x 2.0 mm"
    assert scan.bytes == 2 * 2 * 4 * 6 * 8
    assert not list((project.folder / "scans").iterdir())  # it is only referred to


def test_a_copy_lies_in_the_project_and_the_source_may_go(
    project: Project, write: Write
) -> None:
    source = write("a.nii.gz")
    scan = project.add_scan(files(source), copy=True)
    source.unlink()
    found = project.path_of(scan.images[0])
    assert found == project.folder / "scans" / "a" / "a.nii.gz"
    assert scan.images[0].file.relative == "scans/a/a.nii.gz"
    assert project.state("a").words == "new"


def test_copies_of_one_name_do_not_meet(project: Project, write: Write) -> None:
    new = channels(t1=write("t1/a.nii.gz"), t2=write("t2/a.nii.gz", voxels=_ones()))
    project.add_scan(new, copy=True)
    names = sorted(p.name for p in (project.folder / "scans" / "a").iterdir())
    assert names == ["2-a.nii.gz", "a.nii.gz"]
    second = read_volume(project.folder / "scans" / "a" / "2-a.nii.gz")
    assert (np.asarray(second.data) == 1).all()


def test_a_folder_is_copied_with_all_its_chunks(
    project: Project, write: Write, tmp_path: Path
) -> None:
    source = read_volume(write("a.nii.gz"))
    write_volume(tmp_path / "z.ome.zarr", source.data, source.grid)
    scan = project.add_scan(files(tmp_path / "z.ome.zarr"), copy=True)
    found = project.path_of(scan.images[0])
    assert found is not None
    copy = read_volume(found)
    assert np.array_equal(np.asarray(copy.data), np.asarray(source.data))


def test_a_copy_that_is_stopped_leaves_nothing(project: Project, write: Write) -> None:
    steps = project.adding(files(write("a.nii.gz")), copy=True)
    next(steps)
    steps.close()
    assert project.scans == ()
    assert not list((project.folder / "scans").iterdir())


def test_a_name_that_is_taken_gets_a_number_unless_it_was_given(
    project: Project, write: Write
) -> None:
    project.add_scan(files(write("a.nii.gz")))
    assert project.add_scan(files(write("other/A.nii.gz"))).case == "A-2"
    with pytest.raises(ProjectError, match="Call it 'a-3'"):
        project.add_scan(files(write("third/x.nii.gz"), case="a"))


def test_a_file_is_added_once(project: Project, write: Write) -> None:
    project.add_scan(files(write("a.nii.gz")))
    with pytest.raises(ProjectError, match="as the scan 'a' already"):
        project.add_scan(files(write("a.nii.gz")))


@pytest.mark.parametrize("case", ["../a", "a/b", "a\\b", ".a", "a.", "con", "a\n"])
def test_names_that_are_no_folders_are_refused(
    project: Project, write: Write, case: str
) -> None:
    with pytest.raises(ProjectError, match="cannot be called"):
        project.add_scan(files(write("a.nii.gz"), case=case))


def test_two_channels_of_one_name_are_refused(project: Project, write: Write) -> None:
    with pytest.raises(VolumeError, match="two channels called 'image'"):
        project.add_scan(files(write("a.nii.gz"), write("b.nii.gz")))


def test_a_damaged_file_is_not_added(project: Project, write: Write) -> None:
    path = write("a.nii.gz")
    path.write_bytes(b"\x1f\x8bnothing")
    with pytest.raises(VolumeError, match=r"a\.nii\.gz"):
        project.add_scan(files(path))
    assert project.scans == ()


# ---- One grid ----


def test_channels_on_two_grids_are_refused_with_what_to_do(
    project: Project, write: Write
) -> None:
    new = channels(t1=write("t1.nii.gz"), t2=write("t2.nii.gz", shift=1.0))
    with pytest.raises(GridError, match=r"t2\.nii\.gz is not on the grid.*resampled"):
        project.add_scan(new)


def test_a_channel_is_resampled_onto_the_first(project: Project, write: Write) -> None:
    # The second lies one voxel (1 mm) further along x, which runs to the left: its
    # voxel i - 1 is where voxel i of the first is, and before that there is nothing.
    voxels = np.broadcast_to(np.arange(8) * 10, SHAPE)
    new = NewScan(
        (
            VolumeFile(write("t1.nii.gz"), None, "t1"),
            VolumeFile(write("t2.nii.gz", shift=-1.0, voxels=voxels + 5), None, "t2"),
        ),
        labels=VolumeFile(write("seg.nii.gz", shift=-1.0, voxels=voxels // 10)),
    )
    scan = project.add_scan(new, resample=True)
    assert len(scan.history) == 2
    assert scan.history[0] == "t2.nii.gz was resampled onto the grid of t1.nii.gz."
    moved = project.path_of(scan.images[1])
    labels = scan.labels and project.path_of(scan.labels)
    assert moved is not None
    assert labels
    row = np.asarray(read_volume(moved).data)[0, 0, 0]
    assert row.tolist() == [5, 5, 15, 25, 35, 45, 55, 65]
    assert read_labels(labels)[0][0, 0].tolist() == [0, 0, 1, 2, 3, 4, 5, 6]
    # The first stays where it is.
    assert project.path_of(scan.images[0]) == new.images[0].path


def test_scans_of_two_places_are_not_resampled(project: Project, write: Write) -> None:
    new = channels(t1=write("t1.nii.gz"), t2=write("t2.nii.gz", shift=500.0))
    with pytest.raises(GridError, match="does not overlap"):
        project.add_scan(new, resample=True)
    assert project.scans == ()
    assert not list((project.folder / "scans").iterdir())


# ---- Moving ----


def test_a_project_moves_with_the_files_beside_it(
    project: Project, write: Write, tmp_path: Path
) -> None:
    project.add_scan(files(write("data/a.nii.gz")))
    project.add_scan(files(write("b.nii.gz")), copy=True)
    project.close()
    there = tmp_path / "elsewhere"
    there.mkdir()
    shutil.move(tmp_path / "data", there / "data")
    shutil.move(project.folder, there / "project")
    with Project.open(there / "project") as moved:
        assert [moved.state(case).words for case in "ab"] == ["new", "new"]
        assert moved.path_of(moved.scan("a").images[0]) == there / "data" / "a.nii.gz"
        # What was noted is where the files are now.
        assert moved.scan("a").images[0].file.path.startswith(there.as_posix())


def test_a_project_moved_alone_finds_its_files_where_they_stayed(
    project: Project, write: Write, tmp_path: Path
) -> None:
    path = write("data/a.nii.gz")
    project.add_scan(files(path))
    project.close()
    there = tmp_path / "a" / "b" / "project"
    there.parent.mkdir(parents=True)
    shutil.move(project.folder, there)
    with Project.open(there) as moved:
        assert moved.path_of(moved.scan("a").images[0]) == path


def test_one_answer_brings_all_missing_scans_back(
    project: Project, write: Write, tmp_path: Path
) -> None:
    for case in "abc":
        new = channels(
            t1=write(f"disk/set/{case}/t1.nii.gz"),
            t2=write(f"disk/set/{case}/t2.nii.gz"),
        )
        project.add_scan(NewScan(new.images, case=case))
    shutil.move(tmp_path / "disk", tmp_path / "new-disk")
    assert [project.state(case).words for case in "abc"] == ["missing"] * 3
    assert project.state("a").missing == ("t1.nii.gz", "t2.nii.gz")
    # c is not the file that was added any more.
    (tmp_path / "new-disk" / "set" / "c" / "t1.nii.gz").write_bytes(b"other")
    found = project.relocate("a", tmp_path / "new-disk" / "set" / "a")
    assert found == ("a", "b")
    assert [project.state(case).words for case in "abc"] == ["new", "new", "missing"]
    with reopened(project) as again:
        assert again.state("b").words == "new"


def test_a_folder_without_the_files_is_refused(
    project: Project, write: Write, tmp_path: Path
) -> None:
    path = write("disk/a.nii.gz")
    project.add_scan(files(path))
    path.unlink()
    with pytest.raises(VolumeError, match=r"has no a\.nii\.gz"):
        project.relocate("a", tmp_path)


def test_another_scan_of_that_name_is_refused(
    project: Project, write: Write, tmp_path: Path
) -> None:
    path = write("disk/a.nii.gz")
    project.add_scan(files(path))
    path.unlink()
    write("other/a.nii.gz", spacing=3.0)
    with pytest.raises(GridError, match="another file of that name"):
        project.relocate("a", tmp_path / "other")


# ---- States ----


def test_a_file_that_changed_is_noticed_and_can_be_accepted(
    project: Project, write: Write
) -> None:
    path = write("a.nii.gz")
    project.add_scan(files(path))
    project.set_use("a", "training")
    write("a.nii.gz", shape=(5, 6, 8))
    assert project.state("a").words == "changed since it was added, training"
    project.accept("a")
    assert project.state("a").words == "training"
    assert project.scan("a").grid.shape == (5, 6, 8)
    assert project.scan("a").channels == ("image",)


def test_a_file_of_the_same_size_that_changed_is_noticed(
    project: Project, write: Write
) -> None:
    path = write("a.nii")
    project.add_scan(files(path))
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert project.state("a").changed == ("a.nii",)


def test_a_file_that_was_cut_short_is_damaged(project: Project, write: Write) -> None:
    path = write("a.nii")
    project.add_scan(files(path))
    path.write_bytes(path.read_bytes()[:-7])
    state = project.state("a")
    assert state.words == "damaged"
    assert "a.nii" in state.damage
    with pytest.raises(VolumeError):
        project.accept("a")


def test_results_are_seen_where_they_lie(project: Project, write: Write) -> None:
    labels = write("a-labels.nii.gz")
    project.add_scan(files(write("a.nii.gz"), labels=VolumeFile(labels)))
    assert project.state("a").words == "labelled"
    (project.folder / "predictions" / "a" / "model").mkdir(parents=True)
    assert project.state("a").words == "labelled"
    write("project/predictions/a/model/labels.nii.gz")
    assert project.state("a").words == "labelled, predicted"
    write("project/corrections/a/labels.nii.gz")
    assert project.state("a").words == "labelled, corrected"


def test_a_removed_scan_takes_its_results_with_it(
    project: Project, write: Write
) -> None:
    source = write("a.nii.gz")
    project.add_scan(files(source), copy=True)
    write("project/predictions/a/model/labels.nii.gz")
    project.remove_scan("a")
    trash = project.folder / "trash"
    assert (trash / "scans" / "a" / "a.nii.gz").is_file()
    # Another scan of that name must not inherit them.
    project.add_scan(files(source))
    assert project.state("a").words == "new"
    project.remove_scan("a")
    assert source.is_file()


def test_many_scans_are_changed_at_once_or_not_at_all(
    project: Project, write: Write
) -> None:
    for name in "abc":
        project.add_scan(files(write(f"{name}.nii.gz")), copy=name == "a")
    write("project/corrections/b/labels.nii.gz")
    assert [project.has_of(name) for name in "abc"] == [
        ("scans",),
        ("corrections",),
        (),
    ]
    with pytest.raises(ProjectError, match="no scan 'z'"):
        project.set_uses(["a", "z"], "test")
    with pytest.raises(ProjectError, match="no scan 'z'"):
        project.remove_scans(["a", "z"])
    assert [scan.use for scan in project.scans] == ["none"] * 3
    project.set_uses(["a", "c"], "test")
    assert [scan.use for scan in project.scans] == ["test", "none", "test"]
    project.remove_scans(["a", "b"])
    assert [scan.case for scan in project.scans] == ["c"]
    assert (project.folder / "trash" / "corrections" / "b").is_dir()


def test_labels_are_needed_to_speak_of_classes(project: Project, write: Write) -> None:
    with pytest.raises(VolumeError, match="Give its labels too"):
        project.add_scan(files(write("a.nii.gz"), annotated=("spleen",)))


def test_an_unknown_scan_is_said_to_be_unknown(project: Project) -> None:
    with pytest.raises(ProjectError, match="has no scan 'x'"):
        project.scan("x")


def test_a_pair_of_header_and_voxels_is_one_volume(
    project: Project, tmp_path: Path
) -> None:
    image = nibabel.Nifti1Pair(np.ones((3, 4, 5), np.int16), np.eye(4))
    nibabel.save(image, tmp_path / "pair.hdr")
    scan = project.add_scan(files(tmp_path / "pair.hdr"), copy=True)
    found = project.path_of(scan.images[0])
    assert found is not None
    assert found.with_suffix(".img").is_file()
    (tmp_path / "pair.img").unlink()
    assert project.state("pair").words == "new"


def test_neither_torch_nor_napari_is_imported() -> None:
    code = (
        "import sys, napari_kdseg.project\n"
        "heavy = {'torch', 'napari', 'qtpy', 'psygnal', 'SimpleITK', 'zarr'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _ones() -> np.ndarray:
    return np.ones(SHAPE, np.int16)


# ---- What was drawn ----


def test_what_was_drawn_in_a_scan_follows_its_classes(
    project: Project, write: Write
) -> None:
    scan = write("a.nii.gz")
    truth = VolumeFile(write("a-labels.nii.gz"))
    new = NewScan((VolumeFile(scan),), truth, annotated=("liver",))
    project.add_scan(new)
    project.set_classes(LabelSet.from_names(["liver", "spleen"]))
    assert project.scan("a").annotated == ("liver",)
    liver, spleen = LabelSet.from_names(["liver", "spleen"]).classes
    moved = spleen.model_copy(update={"value": 5})
    project.set_annotated(["a"], ["spleen"])
    project.set_classes(LabelSet(classes=(liver, moved)))  # another value, that is all
    assert project.scan("a").annotated == ("spleen",)
    with pytest.raises(ProjectError, match="only spleen was drawn"):
        project.set_classes(LabelSet(classes=(liver,)))
    with pytest.raises(ProjectError, match="no class 'gut'; it has liver, spleen"):
        project.set_annotated(["a"], ["gut"])


def test_nothing_was_drawn_in_a_scan_without_labels(
    project: Project, write: Write
) -> None:
    project.set_classes(LabelSet.from_names(["liver", "spleen"]))
    project.add_scan(files(write("a.nii.gz")))
    with pytest.raises(ProjectError, match="'a' has no labels"):
        project.set_annotated(["a"], ["liver"])
