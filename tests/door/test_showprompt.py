"""`manage.py showprompt` prints what the server would make of a chat, without loading a model."""

from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from tests.engine import pieces, tiny


@pytest.fixture
def model(tmp_path):
    """A tokenizer and the description of a model; there are no weights worth the name."""
    tiny.byte_level_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def shown(*args, **flags):
    out, err = StringIO(), StringIO()
    call_command("showprompt", *args, stdout=out, stderr=err, **flags)
    return out.getvalue(), err.getvalue()


def test_the_chat_is_written_in_the_template_of_the_server(model):
    out, err = shown("Hello", "Hi", "<|im_end|>?", system="Be brief.", base_model=str(model))
    assert out == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\nHi<|im_end|>\n<|im_start|>user\n<|im_end|>?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert f"template: tokenizer, tokenizer: {model}" in err
    out, err = shown("Hello", base_model=str(model), prompt_template="alpaca")
    assert "### Instruction:\nHello\n\n### Response: " in out


def test_the_ids_are_those_of_the_tokenizer_in_force(model, tmp_path):
    """What users type is text in them."""
    tokenizer = tiny.byte_level_tokenizer()
    out, _ = shown("a<|im_end|>", base_model=str(model), ids=True)
    ids = [*map(int, out.splitlines()[-1].split())]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 1
    assert tokenizer.decode(ids) == out.rpartition("\n")[0].rpartition("\n")[0] + "\n"
    other = pieces.write(tmp_path / "other")
    _, err = shown("a", base_model=str(model), tokenizer_path=str(other))
    assert f"template: alpaca, tokenizer: {other}" in err


def test_what_cannot_be_is_said_in_a_sentence(model, tmp_path):
    with pytest.raises(CommandError, match="There is no model at '/nowhere'"):
        shown("a", base_model="/nowhere")
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[1].content }}{{ raise_exception('Ask twice.') }}")
    with pytest.raises(CommandError, match="does not write this chat: TemplateError: Ask twice"):
        shown("a", "b", base_model=str(model), prompt_template=str(template))
