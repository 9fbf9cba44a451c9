"""The Quality Classifier of a project: trained, scored, audited, handed over."""
