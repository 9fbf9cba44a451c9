"""Settings as YAML text and back, ten times as fast as PyYAML does it by itself.

A run over all scans of a project has settings for each of them, and a viewer that
writes or reads them stands still meanwhile.
"""

from typing import Any

import yaml

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml may be missing
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def dump(values: Any) -> str:
    """Write plain values, in their order."""
    try:
        return _dumped(values, _Dumper)
    except UnicodeEncodeError:  # libyaml has no word for file names that are no UTF-8
        return _dumped(values, yaml.SafeDumper)


def load(text: str) -> Any:
    """Read plain values.

    Raises
    ------
    yaml.YAMLError
        Where the text is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:  # see above; and what is wrong is said better
        return yaml.safe_load(text)


def _dumped(values: Any, dumper: Any) -> str:
    text: str = yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True)
    return text
