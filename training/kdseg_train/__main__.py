"""``python -m kdseg_train``: the command line, where its script is not on the path."""

from kdseg_train.cli import script

if __name__ == "__main__":
    script()
