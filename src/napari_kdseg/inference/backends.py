"""What computes a network, and how many windows at a time; told without loading it."""

from importlib.util import find_spec

from napari_kdseg.errors import UsageError
from napari_kdseg.extras import not_installed
from napari_kdseg.inference.settings import Settings

STREAMS = 2
"""Windows that OpenVINO computes side by side, each with its share of the threads:
faster than all threads at one window, where each layer waits for the slowest of them,
and at the price of the memory of one window more."""


def kind_of(device: str) -> str:
    """``cuda`` for ``cuda:1``."""
    return device.partition(":")[0]


def is_installed() -> bool:
    """Whether OpenVINO is."""
    return find_spec("openvino") is not None


def check_backend(settings: Settings, device: str) -> None:
    """Refuse OpenVINO where it was asked for and cannot be had.

    Parameters
    ----------
    settings
        What is asked for.
    device
        Where it shall be computed; ``auto`` is not known yet, and left to later.

    Raises
    ------
    UsageError
        Where it is not installed, or has no such device or precision.
    """
    if settings.backend != "openvino":
        return
    if not is_installed():
        raise UsageError(not_installed("The backend openvino", "openvino"))
    if kind_of(device) not in ("cpu", "auto") or settings.precision == "float16":
        raise UsageError(
            f"The backend openvino computes on the processor, in float32 or bfloat16; "
            f"asked for were {device} and {settings.precision}. Take the backend torch."
        )


def backend_of(settings: Settings, device: str) -> str:
    """What computes on a device: ``torch`` or ``openvino``.

    ``auto`` is OpenVINO on a processor where it is installed.
    """
    if settings.backend != "auto":
        return settings.backend
    able = kind_of(device) == "cpu" and settings.precision != "float16"
    return "openvino" if able and is_installed() else "torch"


def windows_at_once(settings: Settings, device: str) -> int:
    """How many windows keep a device busy, whatever a model's card says."""
    parallel = backend_of(settings, device) == "openvino" and settings.threads != 1
    return STREAMS if parallel else 1
