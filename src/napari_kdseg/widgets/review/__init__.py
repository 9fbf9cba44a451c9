"""The Review dock: slices judged by key or by page, graded, corrected."""
