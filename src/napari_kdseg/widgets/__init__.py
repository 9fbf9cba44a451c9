"""The docks: they build, connect and show. No arithmetic, no long work, no torch."""
