"""Tiny models made on the spot with the real libraries: what the tests run instead of gigabytes.

Each function writes a Hugging Face directory and returns it. No pytest here, so that any test may
use it.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

RECITAL = "春眠不觉晓，处处闻啼鸟。🌸 夜来风雨声，花落知多少？😀👩‍👧 Grüße aus Zürich 🎉 完！"
"""What the reciter answers to everything: characters of one to four bytes, joined emoji among
them."""

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "A server that keeps its promises is worth more than a server that is fast.",
    "user assistant system What is the capital of China? The capital of China is Beijing.",
    "one two three four five six seven eight nine ten, and then again from the beginning.",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
]


def byte_level_tokenizer(vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """Byte-level BPE. So small that most Chinese characters and all emoji are several tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        bos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        chat_template=CHATML,
    )


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """As SentencePiece makes them for LLaMA 1 and 2: `▁` for a space, `<0xNN>` for what is no
    piece."""
    specials = ["<unk>", "<s>", "</s>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted({letter for line in CORPUS[:4] for letter in line if letter != " "})
    pieces += ["▁", *letters, "春", "眠", "▁t", "▁th", "▁the", "an", "▁an"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("a", "n"), ("▁", "an")]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = models.BPE(
        vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def llama_config(tokenizer: PreTrainedTokenizerFast, **overrides: object) -> LlamaConfig:
    values: dict[str, object] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        # Wide, so that the best token stands out by far more than rounding can move it.
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return LlamaConfig(**(values | overrides))


def write_random(directory: Path, *, seed: int = 0, **overrides: object) -> Path:
    """A LLaMA that writes nonsense, always the same."""
    tokenizer = byte_level_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(tokenizer, **overrides))
    return _write(model, tokenizer, directory)


def write_byte_fallback(directory: Path, *, seed: int = 0) -> Path:
    """The same with a SentencePiece-like vocabulary, as LLaMA 2 has it."""
    tokenizer = byte_fallback_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(llama_config(tokenizer))
    return _write(model, tokenizer, directory)


def write_reciter(directory: Path, *, text: str = RECITAL) -> Path:
    """A LLaMA that was trained for a few seconds to answer every chat with `text`."""
    tokenizer = byte_level_tokenizer()
    with torch.random.fork_rng(devices=[]), _one_thread():
        torch.manual_seed(0)
        config = llama_config(tokenizer, initializer_range=0.05, tie_word_embeddings=True)
        model = LlamaForCausalLM(config)
        _teach(model, tokenizer, text)
    return _write(model, tokenizer, directory)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Matrices this small gain nothing from threads, and on a busy machine lose ten times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _teach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    answer = [*tokenizer.encode(text), tokenizer.eos_token_id]
    opening = tokenizer.encode("<|im_start|>assistant\n")
    chance = random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    steps, rows = 200, 6
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    model.train()
    for _ in range(steps):
        # Whatever was said before, at whatever length: the answer follows from its own beginning.
        length = chance.choice((4, 10, 20, 40, 80, 160))
        ids, labels = [], []
        for _ in range(rows):
            before = [chance.randrange(3, len(tokenizer)) for _ in range(length)]
            ids.append(before + opening + answer)
            labels.append([-100] * (length + len(opening)) + answer)
        loss = model(input_ids=torch.tensor(ids), labels=torch.tensor(labels)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def _write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> Path:
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory
