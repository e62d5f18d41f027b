"""The commands that the first users of this API know, as they were printed then."""

import pytest

from tests.serve.asking import run_curl

COMPLETION = """\
curl http://localhost:19327/v1/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "prompt": "告诉我中国的首都在哪里"
  }'"""
BEAM_COMPLETION = """\
curl http://localhost:19327/v1/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "prompt": "告诉我中国和美国分别各有哪些优点缺点",
    "max_tokens": 90,
    "temperature": 0.7,
    "num_beams": 4,
    "top_k": 40
  }'"""
CHAT = """\
curl http://localhost:19327/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "messages": [
      {"role": "user","message": "给我讲一些有关杭州的故事吧"}
    ],
    "repetition_penalty": 1.0
  }'"""
LONGER_CHAT = """\
curl http://localhost:19327/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "messages": [
      {"role": "user","message": "给我讲一些有关杭州的故事吧"},
      {"role": "assistant","message": "好的，请问您对杭州有什么特别的偏好吗？"},
      {"role": "user","message": "我比较喜欢和西湖，可以给我讲一下西湖吗"}
    ],
    "repetition_penalty": 1.0
  }'"""
EMBEDDING = """\
curl http://localhost:19327/v1/embeddings \\
  -H "Content-Type: application/json" \\
  -d '{
    "input": "今天天气真不错"
  }'"""


@pytest.fixture
def ask(anonymous_server):
    """Runs a command against this server, changed in nothing but the port."""
    address = anonymous_server.url.replace("127.0.0.1", "localhost")
    return lambda command: run_curl(command.replace("http://localhost:19327", address))


@pytest.mark.parametrize("command", [COMPLETION, BEAM_COMPLETION])
def test_the_old_completion_commands_answer_in_their_shape(ask, command):
    answer = ask(command)
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert {"created", "model"} <= set(answer)
    (choice,) = answer["choices"]
    assert choice["index"] == 0
    assert choice["text"]


@pytest.mark.parametrize("command", [CHAT, LONGER_CHAT])
def test_the_old_chat_commands_list_the_conversation_before_the_answer(ask, command):
    answer = ask(command)
    assert answer["id"].startswith("chatcmpl-")
    assert answer["object"] == "chat.completion"
    *asked, said = answer["choices"]
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(asked) + 1))
    assert asked[0]["message"] == {"role": "user", "content": "给我讲一些有关杭州的故事吧"}
    assert len(asked) == command.count('"role"')
    assert said["message"]["role"] == "assistant"
    assert said["message"]["content"]


def test_the_old_embedding_command_answers_in_its_shape(ask):
    answer = ask(EMBEDDING)
    assert answer["object"] == "list"
    (item,) = answer["data"]
    assert (item["object"], item["index"]) == ("embedding", 0)
    assert all(isinstance(number, float) for number in item["embedding"])
    assert answer["usage"]["prompt_tokens"] > 0


def test_what_was_asked_without_a_key_is_kept_under_the_anonymous_user(ask, history):
    row = history.completion(ask(CHAT)["id"])
    assert (row.username, row.status) == ("anonymous", "completed")
