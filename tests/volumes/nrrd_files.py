"""The header of a good NRRD file, and its voxels."""

import numpy as np

BASE = {
    "type": "short",
    "dimension": "3",
    "sizes": "2 3 4",
    "space": "left-posterior-superior",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "space origin": "(10,20,30)",
    "endian": "little",
    "encoding": "raw",
}


VALUES = np.arange(24, dtype=np.int16).reshape(4, 3, 2)
