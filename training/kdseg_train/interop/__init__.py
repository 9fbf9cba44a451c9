"""Models from other tools, and models for other tools."""
