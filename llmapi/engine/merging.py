"""A LoRA adapter becomes a part of its base model, by peft."""

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from llmapi.engine.lora import AdapterFiles, Shapes, check_contents
from llmapi.engine.source import LoadError

CONVERSION = (
    'python -c "import torch; from safetensors.torch import save_file; '
    "save_file(torch.load('{0}', 'cpu', weights_only=False), '{1}')\""
)


def tensor_shapes(adapter: AdapterFiles) -> Shapes:
    """The shapes of an adapter's tensors, also of a pickle's. Raises LoadError.

    A pickle is read as nothing but tensors (`weights_only`), so that it cannot run code.
    """
    if adapter.headers is not None:
        return {name: header.shape for name, header in adapter.headers.items()}
    try:
        tensors = torch.load(adapter.file, map_location="cpu", weights_only=True)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    except pickle.UnpicklingError as error:
        raise unsafe_pickle(adapter.file) from error
    except Exception as error:
        raise LoadError(
            f"'{adapter.file}' cannot be read ({type(error).__name__}: {error}): fetch it again."
        ) from error
    check_contents(adapter, shapes)
    return shapes


def unsafe_pickle(file: Path) -> LoadError:
    command = CONVERSION.format(file, file.with_suffix(".safetensors"))
    return LoadError(
        f"'{file}' is damaged, or it is a pickle with more in it than tensors, which could run "
        f"code when it is read. Fetch it again, or, if you trust it, convert it: {command}"
    )


def module_shapes(directory: Path) -> Shapes:
    """The shapes of a model's tensors, by the names that its modules have in transformers; no
    weight is read. Raises LoadError."""
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise LoadError(f"The model in '{directory}' cannot be loaded ({reason}).") from error
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def resize(model: Any, rows: int) -> None:
    """Give the embeddings `rows` rows; new ones are the mean of the old, until an adapter brings
    its own. (So a token of which nobody has learnt anything is never a likely one.)"""
    old = int(model.get_input_embeddings().weight.shape[0])
    model.resize_token_embeddings(rows, mean_resizing=False)
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        if embedding is not None and rows > old:
            weight = embedding.weight.data
            weight[old:] = weight[:old].float().mean(0).to(weight.dtype)


def attach(model: Any, adapter: AdapterFiles) -> Any:
    """`model` with the adapter beside its weights, as peft loads it. Raises LoadError."""
    with _as_load_error(adapter):
        # Read on the CPU, from where each tensor goes to the device of the layer that it is for.
        peft_model = PeftModel.from_pretrained(model, adapter.directory, torch_device="cpu")
    return peft_model.eval().requires_grad_(False)


def merge(peft_model: Any, adapter: AdapterFiles) -> Any:
    """The transformers model with the adapter's weights added to its own.

    Where the base is quantised, nothing can be added to its weights: the adapter stays beside them
    and is computed at each step. For int8 on a CPU the sum is quantised, for that happens later.
    Raises LoadError.
    """
    model = peft_model.get_base_model()
    if is_quantised(model):
        return model
    _untie(model)
    with _as_load_error(adapter):
        merged = peft_model.merge_and_unload(safe_merge=True)
    return merged.eval().requires_grad_(False)


def is_quantised(model: Any) -> bool:
    return getattr(model, "quantization_method", None) is not None


def _untie(model: Any) -> None:
    """An adapter of the input embedding must not change the output embedding with it."""
    embedding, head = (
        getattr(module, "base_layer", module)
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
    )
    adapted = embedding is not model.get_input_embeddings()
    adapted |= head is not model.get_output_embeddings()
    if adapted and head is not None and head.weight.data_ptr() == embedding.weight.data_ptr():
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)


@contextmanager
def _as_load_error(adapter: AdapterFiles) -> Iterator[None]:
    """What peft does not like is said in a sentence; so is what it would only warn of, adapter
    weights that are missing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            yield
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise LoadError(
                f"The adapter in '{adapter.directory}' cannot be applied ({reason})."
            ) from error
