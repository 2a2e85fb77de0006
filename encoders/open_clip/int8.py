"""An open_clip picture tower in 8-bit numbers, on a CPU, run by OpenVINO.

Weights are quantised once, with one scale for each row of a matrix. What they are multiplied with
is quantised at run time, in groups, so no pictures are needed for calibration. Attention,
normalisation and the patches' convolution stay in float32.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pixtide.schemas.errors import UsageError

#: How many numbers share a scale when they are quantised at run time.
_GROUP = 128


def eight_bit_pictures(network: Any, size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile the picture tower of a float32 network; takes seconds.

    Args:
        size: the pictures' side in pixels.

    Returns:
        A function: float32 (n, 3, size, size) to float32 (n, dimension), not normalised.

    Raises:
        UsageError: OpenVINO isn't installed, or can't convert this network.
    """
    try:
        import openvino
    except ImportError as error:
        raise UsageError("int8 needs OpenVINO: pip install 'pixtide[int8]'") from error
    fast = torch.backends.mha.get_fastpath_enabled()
    # OpenVINO doesn't support the fast path, which is one operation
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
            # OpenVINO makes torch trace the network, which torch calls deprecated
            warnings.simplefilter("ignore")
            model = openvino.convert_model(
                _Pictures(network),
                example_input=torch.zeros(2, 3, size, size),
                input=[-1, 3, size, size],
            )
    except Exception as error:
        raise UsageError(f"this model can't run in int8: {error}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    _quantise(model)
    compiled = openvino.compile_model(
        model,
        "CPU",
        {
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP,
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        },
    )

    def encode(planes: torch.Tensor) -> torch.Tensor:
        # an infer request isn't thread-safe; a new one costs microseconds
        found = compiled.create_infer_request().infer([planes.numpy()], share_inputs=True)
        return torch.from_numpy(np.array(found[0]))

    return encode


class _Pictures(torch.nn.Module):
    def __init__(self, network: Any) -> None:
        super().__init__()
        self._network = network

    def forward(self, planes: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self._network.encode_image(planes)
        return features


def _quantise(model: Any) -> None:
    """Replace the model's constant factor matrices by int8 and one scale per row."""
    from openvino import opset13 as ops

    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul":
            continue
        weights = node.input(1).get_source_output().get_node()
        if weights.get_type_name() != "Constant" or len(weights.get_output_shape(0)) != 2:
            continue
        inner = 1 if node.get_attributes()["transpose_b"] else 0
        scale = np.abs(weights.data).max(axis=inner, keepdims=True) / 127
        scale = np.where(scale > 0, scale, 1).astype(np.float32)
        whole = ops.constant(np.rint(weights.data / scale).astype(np.int8))
        scaled = ops.multiply(ops.convert(whole, "f32"), ops.constant(scale))
        node.input(1).replace_source_output(scaled.output(0))
