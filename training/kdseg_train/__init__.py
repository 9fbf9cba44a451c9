"""Training and segmenting without a screen: the command line of napari-kdseg."""
