"""Networks of other tools: those of MONAI, and whatever a file of ONNX holds.

They predict and teach by their logits. Their decoder is theirs, so no features are
taken from it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from napari_kdseg.errors import ModelError
from napari_kdseg.extras import not_installed
from napari_kdseg.models.networks.network import SegmentationNetwork
from napari_kdseg.models.parameters import MonaiParameters, OnnxParameters


class _Closed(SegmentationNetwork):
    """A network that is looked at from outside alone."""

    def features(
        self, x: Float[Tensor, "B C *S"], levels: Sequence[int]
    ) -> tuple[Float[Tensor, "B K *S"], dict[int, Tensor]]:
        """Give the logits; there are no features.

        Raises
        ------
        ModelError
            When some are asked for.
        """
        for level in levels:
            self.feature_channels(level)
        self._check_input(x)
        return self._logits(x), {}

    def feature_channels(self, level: int) -> int:
        """Refuse: the decoder is not ours.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError(
            f"A network of another tool has no features at level {level} that could be "
            "compared; set distillation.feature_weight to 0."
        )

    def _logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class MonaiNetwork(_Closed):
    """A network of MONAI, whose axes are x, y, z.

    Parameters
    ----------
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    **settings
        Those of `MonaiParameters`.

    Raises
    ------
    ModelError
        When MONAI does not take the arguments.
    """

    def __init__(self, in_channels: int, out_channels: int, **settings: object) -> None:
        shape = MonaiParameters.model_validate(settings)
        super().__init__(shape.dimensions, in_channels, out_channels, shape.divisor)
        from monai.networks import nets  # takes seconds

        try:
            self.inner: nn.Module = getattr(nets, shape.kind)(
                spatial_dims=shape.dimensions,
                in_channels=in_channels,
                out_channels=out_channels,
                **shape.arguments,
            )
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise ModelError(
                f"MONAI builds no {shape.kind} from {shape.arguments}: {error}. Was "
                "the bundle made with another version of MONAI?"
            ) from error

    def _logits(self, x: Tensor) -> Tensor:
        turned = (0, 1, *range(x.ndim - 1, 1, -1))
        found = self.inner(x.permute(turned))
        first: Tensor = found[0] if isinstance(found, list | tuple) else found
        return first.permute(turned)


class OnnxNetwork(_Closed):
    """A file of ONNX, kept as bytes among the weights and run by onnxruntime.

    It runs on the processor, whatever the device of the image.

    Parameters
    ----------
    in_channels
        Channels of the image.
    out_channels
        Classes, background included.
    **settings
        Those of `OnnxParameters`.
    """

    graph: Tensor
    traceable = False

    def __init__(self, in_channels: int, out_channels: int, **settings: object) -> None:
        shape = OnnxParameters.model_validate(settings)
        super().__init__(shape.dimensions, in_channels, out_channels, shape.divisor)
        self.shape = shape
        empty = torch.zeros(shape.graph_bytes, dtype=torch.uint8)
        self.register_buffer("graph", empty)
        self._session: Any = None

    @property
    def divisors(self) -> tuple[int, ...]:
        """What the sizes of the input must be multiples of, by axis."""
        return self.shape.divisors

    def _logits(self, x: Tensor) -> Tensor:
        turned = (0, 1, *range(x.ndim - 1, 1, -1))
        images = x.permute(turned) if self.shape.xyz else x
        given = np.ascontiguousarray(images.detach().cpu().float().numpy())
        session, name = self._opened(), self.shape.input_name
        # One by one: a file may be made for a single image.
        parts = [session.run(None, {name: image[None]})[0] for image in given]
        found = torch.from_numpy(np.concatenate(parts)).to(x.device)
        return found.permute(turned) if self.shape.xyz else found

    def _opened(self) -> Any:
        if self._session is None:
            self._session = open_graph(bytes(self.graph.cpu().numpy()))
        return self._session


def open_graph(graph: bytes) -> Any:
    """Open a file of ONNX in onnxruntime, on the processor.

    Raises
    ------
    ModelError
        When onnxruntime is not installed, or does not take the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(not_installed("A network of ONNX", "onnxruntime")) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no class of their own
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"onnxruntime does not take this file of ONNX: {reason}. Export it anew, "
            "with the usual operators alone."
        ) from error
