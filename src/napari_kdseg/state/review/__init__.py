"""Judging slices: the folder under review, its queue, verdicts as they are given."""
