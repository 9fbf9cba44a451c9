"""How many slices of each scan were judged, for the list of scans."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from napari_kdseg.errors import KdsegError
from napari_kdseg.review.predictions import finder, predictions_in
from napari_kdseg.review.verdicts import current, read_verdicts
from napari_kdseg.volumes.scan import Scan


def reviewed(project: Path, scans: Sequence[Scan]) -> dict[str, str]:
    """Say for each scan how far its review is, such as ``reviewed 12/80``.

    Counted are slices with a verdict on a prediction that is there, along the axis and
    of the model with most of them. A database of the lab is not asked: it may be slow.
    What cannot be read counts as nothing here; the Review dock says what is wrong.
    """
    home = project / "review"
    if not home.is_dir():
        return {}
    # Most projects have no review, and loading what stores need takes a while.
    from napari_kdseg.review.shared import store_of

    try:
        store = store_of(home)
        if isinstance(store, str) or not store.is_file():
            return {}
        verdicts = current(read_verdicts(store))
        found = predictions_in(project / "predictions", finder(scans, project))
    except (KdsegError, OSError):
        return {}
    whole = {(one.case, one.labels_hash): one for one in found}
    places = {(one.place, one.labels_hash) for one in verdicts}
    judged = Counter((case, digest, axis) for (case, axis, _), digest in places)
    most: dict[str, str] = {}
    for (case, digest, axis), count in judged.most_common():
        prediction = whole.get((case, digest))
        if prediction is not None and case not in most:
            most[case] = f"reviewed {count}/{prediction.slices(axis)}"
    return most
