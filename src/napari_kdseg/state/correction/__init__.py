"""Correcting a prediction by painting: open corrections, and how they are saved."""
