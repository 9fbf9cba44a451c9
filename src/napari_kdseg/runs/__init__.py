"""Runs: everything long is a folder, so that anyone can start, follow and stop it."""
