"""How to turn the picture so that a scan is seen as radiologists hang it."""

_UP = {"A": "up", "P": "down", "S": "up", "I": "down"}
_RIGHT_ON_THE_LEFT = {"R": "left", "L": "right", "A": "left", "P": "right"}


def upright(orientation: str, rows: int, columns: int) -> tuple[str, str]:
    """Where rows and columns have to run for the front, or the head, to be above.

    The patient's right is at the left then, or the front where the patient is seen
    from the side: the convention of radiology.

    Parameters
    ----------
    orientation
        Towards where the axes x, y, z run, as ``RAS``.
    rows
        The axis (0, 1, 2 for z, y, x) that runs down in napari by default.
    columns
        The axis that runs to the right by default.

    Returns
    -------
    tuple of str
        ``up`` or ``down``, ``left`` or ``right``, as napari's camera takes them.
    """
    along_zyx = orientation[::-1]
    vertical = _UP.get(along_zyx[rows], "down")
    return vertical, _RIGHT_ON_THE_LEFT.get(along_zyx[columns], "right")
