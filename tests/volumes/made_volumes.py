"""Affines, voxels and where SimpleITK puts them, for the tests of all formats."""

import nibabel
import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everybody knows
from hypothesis import strategies as st

DTYPES = ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"]


RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any turn (a quaternion), flip, voxel size and place."""
    part, size = st.floats(-1, 1), st.floats(0.05, 5)
    quaternion = np.array(draw(st.tuples(part, part, part, part)))
    if np.linalg.norm(quaternion) < 0.1:
        quaternion = np.array([1.0, 0, 0, 0])
    affine = np.eye(4)
    affine[:3, :3] = nibabel.quaternions.quat2mat(quaternion)
    affine[:3, :3] *= draw(st.tuples(size, size, size))
    affine[:3, 0] *= draw(st.sampled_from([1, -1]))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def voxels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    values = np.random.default_rng(0).normal(scale=60, size=shape)
    return values.astype(dtype) if dtype[0] == "f" else (values % 128).astype(dtype)


def lps_affine(image: sitk.Image) -> np.ndarray:
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3))
    affine[:3, :3] = RAS_TO_LPS @ direction * np.array(image.GetSpacing())
    affine[:3, 3] = RAS_TO_LPS @ image.GetOrigin()
    return affine
