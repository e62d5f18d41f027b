"""Train a small LoRA adapter with peft, in a few minutes on a CPU.

    python -m docs.examples.lora.train                      on the embedded model
    python -m docs.examples.lora.train --base_model DIR     on another one that has a chat template

It learns the question and answer pairs of `pairs.jsonl` in the model's own chat format and writes
the adapter to a directory that `manage.py serve --lora_model` takes. docs/models.md goes on from
there.
"""

import argparse
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
EMBEDDED = "HuggingFaceTB/SmolLM2-135M-Instruct"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
IGNORED = -100
"""The label of tokens that are not learned: transformers' loss leaves them out."""

UNSEEN = (
    "请告诉我，中国的首都在哪儿？",
    "中国的首都叫什么？",
    "日本的首都在哪里？",
    "德国的首都是哪座城市？",
)
"""Asked at the end, and not among the pairs word for word."""


class Example(NamedTuple):
    tokens: list[int]
    labels: list[int]


def main() -> None:
    options = arguments()
    pairs = read_pairs(options.pairs)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    directory = options.base_model or embedded_model()
    if not Path(directory).is_dir() and not HUB_ID.fullmatch(str(directory)):
        raise SystemExit(f"There is no model at '{directory}' (--base_model): no such directory.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise SystemExit(f"'{directory}' (--base_model) has no tokenizer: {error}") from error
    if not tokenizer.chat_template:
        raise SystemExit(f"The tokenizer in '{directory}' has no chat template to train with.")
    examples = [as_example(tokenizer, pair["instruction"], pair["answer"]) for pair in pairs]

    try:
        base = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise SystemExit(f"'{directory}' (--base_model) cannot be loaded: {error}") from error
    model = get_peft_model(base, lora_config(options.rank))
    model.print_trainable_parameters()
    train(model, examples, options)
    save(model, options)

    adapted = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32), options.output
    ).merge_and_unload()
    for instruction in (pairs[0]["instruction"], *UNSEEN):
        print(f"{instruction} -> {answer(adapted, tokenizer, instruction)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a small LoRA adapter.")
    parser.add_argument("--base_model", help="directory or hub id; default: the embedded model")
    parser.add_argument("--pairs", type=Path, default=HERE / "pairs.jsonl", help="what it learns")
    parser.add_argument("--output", type=Path, default=HERE / "adapter", help="where it goes")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read_pairs(path: Path) -> list[dict[str, str]]:
    """What there is to learn; a file that does not hold that ends the program with a sentence."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SystemExit(f"'{path}' (--pairs) cannot be read: {reason}.") from error
    pairs: list[dict[str, str]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            pair = json.loads(line)
        except ValueError:
            pair = None
        if not isinstance(pair, dict) or not all(
            isinstance(pair.get(name), str) for name in ("instruction", "answer")
        ):
            raise SystemExit(
                f"'{path}' (--pairs), line {number}, is no JSON object with the strings "
                "'instruction' and 'answer'."
            )
        pairs.append(pair)
    if not pairs:
        raise SystemExit(f"'{path}' (--pairs) is empty.")
    return pairs


def embedded_model() -> Path:
    """The directory of the embedded model, which is converted first if it has not been yet."""
    from benchmarks.model import model_directory

    return model_directory()


def lora_config(rank: int) -> LoraConfig:
    return LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=[
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ],
        task_type="CAUSAL_LM",
    )


def as_example(tokenizer: Any, instruction: str, answer: str) -> Example:
    """The chat in the model's own format; only the answer and the end of its turn are learned."""
    question = as_prompt(tokenizer, instruction)
    ending: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
    ending.append(tokenizer.eos_token_id)
    return Example(question + ending, [IGNORED] * len(question) + ending)


def as_prompt(tokenizer: Any, instruction: str) -> list[int]:
    """What the server makes of a chat with this one message."""
    ids: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": instruction}], add_generation_prompt=True, return_dict=False
    )
    return ids


def train(model: Any, examples: list[Example], options: argparse.Namespace) -> None:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.learning_rate, weight_decay=0.0)
    steps = options.epochs * -(-len(examples) // options.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, steps)
    began = time.monotonic()
    model.train()
    for epoch in range(1, options.epochs + 1):
        losses = []
        for tokens, labels, mask in shuffled_batches(examples, options.batch):
            # Logits cost as much as many layers, and those of the questions are not needed.
            first = int((labels != IGNORED).any(dim=0).nonzero()[0]) - 1
            loss = model(
                input_ids=tokens,
                attention_mask=mask,
                labels=labels[:, first:],
                logits_to_keep=tokens.shape[1] - first,
            ).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            losses.append(loss.item())
        mean, seconds = sum(losses) / len(losses), time.monotonic() - began
        print(f"epoch {epoch:2}/{options.epochs}  loss {mean:.3f}  {seconds:.0f} s", flush=True)


def shuffled_batches(examples: list[Example], size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, labels and attention mask, padded at the right."""
    order = torch.randperm(len(examples)).tolist()
    for start in range(0, len(order), size):
        batch = [examples[index] for index in order[start : start + size]]
        longest = max(len(example.tokens) for example in batch)
        tokens = torch.zeros(len(batch), longest, dtype=torch.long)
        labels = torch.full_like(tokens, IGNORED)
        mask = torch.zeros_like(tokens)
        for row, example in enumerate(batch):
            length = len(example.tokens)
            tokens[row, :length] = torch.tensor(example.tokens)
            labels[row, :length] = torch.tensor(example.labels)
            mask[row, :length] = 1
        yield tokens, labels, mask


def save(model: Any, options: argparse.Namespace) -> None:
    """Write the adapter, in float16 for half the size."""
    if not options.base_model:
        model.peft_config["default"].base_model_name_or_path = EMBEDDED
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.half()
    model.save_pretrained(options.output, save_embedding_layers=False)
    (options.output / "README.md").unlink()  # peft's form for a model card, not filled in
    size = (options.output / "adapter_model.safetensors").stat().st_size
    print(f"{options.output}: {size / 1e6:.1f} MB")


@torch.inference_mode()
def answer(model: Any, tokenizer: Any, instruction: str) -> str:
    prompt = torch.tensor([as_prompt(tokenizer, instruction)])
    ids = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=64
    )
    text: str = tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)
    return text


if __name__ == "__main__":
    main()
