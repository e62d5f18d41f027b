"""A chat template is a program that came with a model: it runs in a sandbox, and gets to nothing
but the messages."""

from contextlib import suppress

import pytest
from jinja2 import Environment, TemplateError

from llmapi.backends.base import ChatMessage
from llmapi.backends.prompt import PromptEncoder
from llmapi.backends.templates import ChatTemplate, read_template
from llmapi.errors import InvalidRequest, TemplateFailed
from tests.engine import tiny

SAID = (ChatMessage("user", "Hello."),)
REACH = "__globals__['__builtins__']['__import__']('os').system('touch {trap}')"

ESCAPES = {
    "a class": "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}",
    "a class by name": "{{{{ ''|attr('__class__')|attr('__mro__') }}}}",
    "of a format": "{{{{ '{{0.__class__.__mro__}}'.format('') }}}}",
    "of a format map": "{{{{ '{{a.__class__}}'.format_map({{'a': 1}}) }}}}",
    "of a function": "{{{{ raise_exception." + REACH + " }}}}",
    "of a function of jinja's": "{{{{ cycler.__init__." + REACH + " }}}}",
    "of a macro": "{{% macro m() %}}{{% endmacro %}}{{{{ m." + REACH + " }}}}",
    "of a method": "{{{{ messages.append." + REACH + " }}}}",
    "of the template": "{{{{ self.__init__." + REACH + " }}}}",
    "of a generator": "{{{{ (messages|map('upper')).gi_frame.f_globals }}}}",
    "an import": "{{% import 'os' as os %}}{{{{ os.system('touch {trap}') }}}}",
    "a file": "{{% include '/etc/passwd' %}}",
    "a change": "{{{{ messages.append({{'role': 'user', 'content': 'x'}}) }}}}",
    "a huge range": "{{% for i in range(10 ** 12) %}}x{{% endfor %}}",
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    tiny.byte_level_tokenizer().save_pretrained(path)
    return path


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_a_template_gets_out_of_its_sandbox_by_no_way(escape, directory, tmp_path) -> None:
    trap = tmp_path / "sprung"
    source = escape.format(trap=trap)
    encoder = PromptEncoder.load(str(directory), 512, 400, ChatTemplate("tokenizer", source))
    # It fails, or jinja writes nothing where it would have reached out.
    with pytest.raises((TemplateFailed, InvalidRequest)):
        encoder.encode_chat(SAID, "messages")
    try:
        assert encoder.render_chat(SAID) == ""
    except TemplateError:
        pass
    except (TypeError, OverflowError):
        pass  # there is no loader for files; the range is too big
    assert not trap.exists()


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
def test_nor_does_one_that_is_tried_at_the_start(escape, tmp_path) -> None:
    trap = tmp_path / "sprung"
    file = tmp_path / "a.jinja"
    file.write_text(escape.format(trap=trap))
    with suppress(ValueError):
        read_template(file)
    assert not trap.exists()


def test_outside_of_a_sandbox_these_do_get_out(tmp_path) -> None:
    """Or the tests above would show nothing."""
    trap = tmp_path / "sprung"
    bare = Environment()
    bare.from_string(ESCAPES["of a function of jinja's"].format(trap=trap)).render()
    assert trap.exists()
    assert "object" in bare.from_string(ESCAPES["a class by name"].format()).render()


def test_what_a_user_says_is_no_template(directory) -> None:
    said = "{{ 7 * 7 }}{% for i in range(3) %}x{% endfor %}{{ ''.__class__ }}"
    source = "{{ messages[0].content }}"
    encoder = PromptEncoder.load(str(directory), 512, 400, ChatTemplate("tokenizer", source))
    assert encoder.render_chat((ChatMessage("user", said),)) == said
