"""Organ segmentation of 3D scans from few labels by knowledge distillation."""

__version__ = "0.1.0"
