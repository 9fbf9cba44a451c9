"""The tags of one DICOM frame, wherever its file keeps them.

A plain file has them at its top; an enhanced one in functional groups, one for each
frame and one that all frames share (PS3.3, C.7.6.16).
"""

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from napari_kdseg.errors import VolumeError

_GROUPS = {  # where an enhanced file keeps what a plain one has at its top
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "ReferencedSegmentNumber": "SegmentIdentificationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "NominalCardiacTriggerDelayTime": "CardiacSynchronizationSequence",
}
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence")


class Tags:
    """The tags of one frame: its own, those all frames share, those at the top."""

    def __init__(self, header: Dataset, index: int, path: Path) -> None:
        self._header, self._path = header, path
        per_frame = header.get("PerFrameFunctionalGroupsSequence")
        shared = header.get("SharedFunctionalGroupsSequence")
        self.is_enhanced = bool(per_frame)
        self._groups = [per_frame[index]] if per_frame else []
        self._groups += [shared[0]] if shared else []

    def get(self, keyword: str) -> Any:
        """Find a value; None where it is absent or empty."""
        for group in self._groups:
            inner = group.get(_GROUPS.get(keyword, ""))
            if inner and inner[0].get(keyword) not in (None, ""):
                return inner[0].get(keyword)
        value = self._header.get(keyword)
        return None if value in (None, "") else value

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Find `count` finite numbers; None where there are none at all."""
        value = self.get(keyword)
        if value is None or (np.ndim(value) > 0 and len(value) == 0):
            return None
        found = tuple(float(item) for item in np.atleast_1d(value))
        if len(found) != count or not np.isfinite(found).all():
            raise VolumeError(
                f"{self._path} has the {keyword} {value}; it must be {count} finite "
                "numbers. The header is damaged: fetch or make it anew."
            )
        return found

    def number(self, keyword: str) -> float | None:
        """Find one finite number."""
        found = self.numbers(keyword, 1)
        return None if found is None else found[0]

    def kinds(self, frames: int) -> dict[str, str]:
        """Say what tells this frame from others at its place."""
        sources = {
            "echo": ("EffectiveEchoTime", "EchoNumbers", "EchoTime"),
            "time": ("TemporalPositionIndex", "TemporalPositionIdentifier"),
            "phase": ("NominalCardiacTriggerDelayTime", "TriggerTime"),
            "b-value": ("DiffusionBValue",),
            "segment": ("ReferencedSegmentNumber",),
            "acquisition": ("FrameAcquisitionNumber", "AcquisitionNumber"),
        }
        kinds = {kind: self._first(keywords) for kind, keywords in sources.items()}
        kinds["image type"] = self._image_type()
        instance = self._first(("InstanceNumber",)) if frames > 1 else ""
        return {**kinds, "instance": instance}

    def _first(self, keywords: tuple[str, ...]) -> str:
        found = (self.get(keyword) for keyword in keywords)
        return next((str(value) for value in found if value is not None), "")

    def _image_type(self) -> str:
        for group in self._groups:
            for keyword in _FRAME_TYPES:
                if group.get(keyword):
                    return _joined(group.get(keyword)[0].get("FrameType"))
        return _joined(self._header.get("ImageType"))


def _joined(value: Any) -> str:
    items = [value] if isinstance(value, str) else list(value or ())
    return "\\".join(str(item) for item in items)
