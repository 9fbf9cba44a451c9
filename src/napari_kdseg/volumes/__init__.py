"""What a scan is: voxels and the grid they lie on, from file and back to file."""
