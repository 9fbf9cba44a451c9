"""Measures: how well a segmentation agrees with a reference, organ by organ."""
