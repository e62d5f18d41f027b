"""The format of keys. No database."""

import pytest

from accounts import keys


def test_new_key_is_sk_8_public_32_secret_6_checksum_in_base_62() -> None:
    key = keys.new_key()
    assert len(key.text) == len("sk-") + 8 + 32 + 6
    assert key.text.startswith("sk-" + key.public_id)
    assert set(key.text[3:]) <= set(keys.ALPHABET)
    assert key.text[-6:] == keys.checksum(key.text[:-6])
    assert key.last_four == key.text[-4:]
    assert key.digest == keys.digest(key.text)
    assert len(key.digest) == 64


def test_a_thousand_keys_differ_and_all_parse() -> None:
    made = {keys.new_key().text for _ in range(1000)}
    assert len(made) == 1000
    assert all(keys.parse(text) is not None for text in made)


def test_checksum_of_a_known_body_never_changes() -> None:
    # Keys that are out there must stay valid.
    assert keys.checksum("sk-" + "0" * 40) == "2hvYng"


def test_repr_does_not_show_the_key() -> None:
    key = keys.new_key()
    assert key.text not in repr(key)
    assert key.text[11:] not in repr(key)


def damaged() -> dict[str, str]:
    text = keys.new_key().text
    swapped = "x" if text[20] != "x" else "y"
    return {
        "one character changed": text[:20] + swapped + text[21:],
        "checksum changed": text[:-1] + ("0" if text[-1] != "0" else "1"),
        "cut": text[:-1],
        "longer": text + "0",
        "line feed behind": text + "\n",
        "space before": " " + text,
        "other prefix": "pk" + text[2:],
        "character outside base 62": text[:20] + "-" + text[21:],
        "digit of another script": text[:20] + "٣" + text[21:],
        "lone surrogate": text[:20] + "\ud800" + text[21:],
        "empty": "",
        "prefix alone": "sk-",
    }


@pytest.mark.parametrize("damage", damaged())
def test_damaged_key_is_no_key(damage: str) -> None:
    assert keys.parse(damaged()[damage]) is None
