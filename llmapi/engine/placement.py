"""Where a model's layers go: to one device, or spread over several GPUs by accelerate."""

from typing import Any

import torch

from llmapi.engine.machine import free_on
from llmapi.engine.source import LoadError

WEIGHTS_SHARE = 0.85
"""Of each GPU's free memory, for weights; the cache needs the rest."""


def placement(devices: list[torch.device]) -> dict[str, Any]:
    """Arguments of `from_pretrained` that put a model on these devices, and on no others."""
    if len(devices) > 1:
        room = {device.index: int(free_on(device) * WEIGHTS_SHARE) for device in devices}
        return {"device_map": "balanced", "max_memory": room}
    (device,) = devices
    return {"device_map": None if device.type == "cpu" else {"": device}}


def check_placement(model: Any, devices: list[torch.device]) -> None:
    """Raises LoadError if a part of the model found no room on its devices."""
    elsewhere = {"cpu", "disk"} & {str(d) for d in getattr(model, "hf_device_map", {}).values()}
    if elsewhere and devices[0].type == "cuda":
        raise LoadError(
            "The model does not fit the GPUs that --gpus names: name more of them, or take "
            "--load_in_8bit or --load_in_4bit."
        )


def spread(model: Any) -> bool:
    """Whether the model lies on more than one device."""
    return len({parameter.device for parameter in model.parameters()}) > 1
