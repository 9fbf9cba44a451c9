"""Judging predictions by the slice: verdicts, their store, the queue, corrections."""
