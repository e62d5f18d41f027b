"""The hash chain. No database."""

from conversations.tree import chain

HELLO = ("user", "", "hello")
HI = ("assistant", "", "hi")


def test_equal_histories_of_one_user_have_equal_hashes() -> None:
    assert chain.hashes(1, [HELLO, HI]) == chain.hashes(1, [HELLO, HI])
    assert chain.hashes(1, [HELLO, HI])[0] == chain.hashes(1, [HELLO])[0]
    assert chain.link(chain.root(1), *HELLO) == chain.hashes(1, [HELLO])[0]


def test_a_hash_covers_user_place_role_name_and_content() -> None:
    histories = [
        (1, [HELLO]),
        (2, [HELLO]),
        (1, [HELLO, HELLO]),
        (1, [("system", "", "hello")]),
        (1, [("developer", "", "hello")]),
        (1, [("user", "bob", "hello")]),
        (1, [("user", "", "hello ")]),
        (1, [("user", "", ["hello"])]),
        (1, [("user", "", None)]),
        (1, [("user", "", "None")]),
        (1, [("user", "", "null")]),
        (1, [("userhello", "", "")]),
    ]
    assert len({chain.hashes(*history)[-1] for history in histories}) == len(histories)


def test_order_of_keys_does_not_count_and_any_text_has_a_hash() -> None:
    one = [("user", "", [{"type": "text", "text": "北京 😀 \ud800 \x01"}])]
    other = [("user", "", [{"text": "北京 😀 \ud800 \x01", "type": "text"}])]
    assert chain.hashes(1, one) == chain.hashes(1, other)
    assert len(chain.hashes(1, one)[0]) == 64


def test_hashes_never_change() -> None:
    # Stored histories must be found again by the next release.
    assert chain.hashes(1, [("user", "", "你好")])[0].startswith("856f9f43f31469c5")
