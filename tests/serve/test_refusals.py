"""Starts that cannot succeed end with exit code 1 and a sentence that says what to change."""

import shutil
import socket
from contextlib import closing

import pytest
from pydantic import ValidationError

from config.env import ServerSettings
from config.reading import explain

LOADING = ("Loading", "tokenizer", "Preparing the database")


def refused(server) -> str:
    """The sentence of a start that was refused: one line, no traceback, before any loading."""
    assert server.run(60) == 1
    assert server.out == ""
    assert "Traceback" not in server.err
    assert not any(word in server.err for word in LOADING), server.err
    (sentence,) = server.err.strip().splitlines()
    return sentence


def test_a_port_in_use_is_refused_before_anything_is_loaded(new_server):
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = refused(new_server(port=port, database_url=None))
    assert f"127.0.0.1:{port}" in sentence
    assert "--port" in sentence


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--port", "70000"], "--port"),
        (["--gpus", "all"], "--gpus"),
        (["--load_in_8bit", "--load_in_4bit"], "--load_in_4bit"),
        (["--gpus", "0,0"], "--gpus"),
        (["--gpus", "0", "--only_cpu"], "--only_cpu"),
        (["--lora_model", "somewhere"], "--lora_model"),
        (["--lora_modules", "zh=a", "law"], "--lora_modules"),
        (["--lora_modules", "zh=/nowhere"], "'/nowhere'"),
    ],
)
def test_a_bad_flag_is_named(new_server, flags, named):
    assert named in refused(new_server(flags=flags, database_url=None))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "99999"], "--port must be at most 65535."),
        (
            ["--lora_modules", "law"],
            "--lora_modules takes name=value pairs, separated by spaces; 'law' is no such pair.",
        ),
        (["--load_in_4bit", "--base_model", "."], "--load_in_4bit needs a GPU"),
    ],
)
def test_a_bad_flag_is_told_in_our_words_at_once(new_server, flags, said):
    server = new_server(flags=flags, database_url=None, CUDA_VISIBLE_DEVICES="")
    assert refused(server).startswith(f"CommandError: {said}")


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("LLMAPI_PORT=many", "LLMAPI_PORT: must be a whole number (it is 'many')"),
        ("LLMAPI_DEFAULT_TOP_P=0", "LLMAPI_DEFAULT_TOP_P: must be above 0 (it is '0')"),
        ("LLMAPI_ONLY_CPU=perhaps", "LLMAPI_ONLY_CPU: must be true or false (it is 'perhaps')"),
        (
            "LLMAPI_MODEL_ALIASES=gpt-4",
            "LLMAPI_MODEL_ALIASES: takes name=value pairs, separated by commas; 'gpt-4' is no "
            "such pair",
        ),
    ],
)
def test_a_bad_variable_is_told_in_our_words(monkeypatch, variable, said):
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as caught:
        ServerSettings()
    assert explain(caught.value) == f"llmapi: {said}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LLMAPI_PORT", "many"),
        ("LLMAPI_MAX_BATCH", "0"),
        ("LLMAPI_ONLY_CPU", "perhaps"),
        ("LLMAPI_BASE_MODLE", "somewhere"),
        ("LLMAPI_SHUTDOWN_TIMEOUT_S", "soon"),
        ("LLMAPI_SHARED_SYSTEM_PROMPTS", "/nowhere/house.txt"),
        ("LLMAPI_MODEL_ALIASES", "gpt-4=gpt-5,gpt-5=nonsense"),
        ("LLMAPI_PROMPT_TEMPLATE", "/nowhere/house.jinja"),
        ("DATABASE_URL", "nonsense"),
        ("SECRET_KEY", "short"),
        ("REDIS_URL", "nonsense"),
    ],
)
def test_a_bad_variable_is_named(new_server, variable, value):
    server = new_server(database_url=None, **{variable: value})
    sentence = refused(server)
    assert variable in sentence
    if variable in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL"):
        assert value not in sentence


def test_a_misspelt_flag_is_refused_with_the_usage(new_server):
    """By argparse, with its exit code."""
    server = new_server(flags=["--base_modle", "somewhere"], database_url=None)
    assert server.run() == 2
    assert "--base_modle" in server.err
    assert "Traceback" not in server.err


def test_a_database_that_does_not_answer_is_named_by_its_variable(new_server):
    with closing(socket.socket()) as nobody:  # bound, but nobody listens
        nobody.bind(("127.0.0.1", 0))
        url = f"postgres://someone:hidden@127.0.0.1:{nobody.getsockname()[1]}/nothing"
        server = new_server(database_url=url)
        assert server.run() == 1
    assert "DATABASE_URL" in server.err
    assert "Traceback" not in server.err
    assert "hidden" not in server.err


def test_a_model_directory_that_does_not_exist_is_named(new_server, tmp_path):
    server = new_server(model=tmp_path / "no-model-here")
    assert server.run() == 1
    assert "no-model-here" in server.err
    assert "Traceback" not in server.err
    assert server.out == "", "neither a key nor a URL is printed"


def test_a_model_that_turns_out_to_be_broken_ends_the_start_with_a_sentence(
    new_server, model_directory, tmp_path
):
    """Found only while loading, when the web process already listens."""
    broken = shutil.copytree(model_directory, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    server = new_server(model=broken)
    assert server.run(120) == 1
    assert "broken" in server.err
    assert "CommandError: " in server.err
    assert "Stopped." not in server.err
    assert server.out == "", "neither a key nor a URL is printed"


def test_an_alias_of_a_model_that_is_not_served_ends_the_start(new_server):
    server = new_server(LLMAPI_ENGINE="echo", LLMAPI_MODEL_ALIASES="gpt-4=nothing")
    assert server.run(60) == 1
    assert "'gpt-4' stands for 'nothing', which is not served. Served: echo." in server.err
    assert "Traceback" not in server.err
    assert server.out == "", "neither a key nor a URL is printed"
