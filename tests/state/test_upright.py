import pytest

from napari_kdseg.state.upright import upright

Z, Y, X = 0, 1, 2


@pytest.mark.parametrize(
    ("orientation", "rows", "columns", "turned"),
    [
        ("RAS", Y, X, ("up", "left")),  # axial: front above, patient's right at left
        ("LPS", Y, X, ("down", "right")),  # as DICOM stores slices
        ("LAS", Y, X, ("up", "right")),
        ("RAS", Z, X, ("up", "left")),  # coronal: head above
        ("RAI", Z, X, ("down", "left")),
        ("RAS", Z, Y, ("up", "left")),  # sagittal: looking to the left
        ("LPS", Z, Y, ("up", "right")),
        ("PIR", Y, Z, ("down", "left")),  # stored in sagittal slices, seen as coronal
        ("RAS", X, Z, ("down", "right")),  # lying: no convention
    ],
)
def test_front_or_head_is_above_and_the_right_at_the_left(
    orientation: str, rows: int, columns: int, turned: tuple[str, str]
) -> None:
    assert upright(orientation, rows, columns) == turned
