"""Prompts of a known length and of ever new text.

Every word here is one token of SmolLM2's tokenizer (and of most), and a number of six digits is six
of them: so all prompts are equally long without a tokenizer at hand. The number comes first of all,
so that no two requests share more than the template's opening and no prefix cache can help, unless
`shared` asks for it.
"""

import random

ADJECTIVES, NOUNS, VERBS = (
    words.split()
    for words in (
        "old young small grey quiet strange bright heavy empty broken golden hidden tired happy "
        "cold warm dark little great narrow",
        "man woman child king doctor farmer teacher soldier sailor captain dog horse bird cat fox "
        "river mountain forest garden house bridge ship boat wagon tower market village castle "
        "letter book map key clock mirror lamp coin ring stone tree flower",
        "saw found followed carried opened painted remembered lost watched sold bought borrowed "
        "hid cleaned feared loved",
    )
)

SENTENCE_TOKENS = 8
CHAT_TOKENS = 111
"""What `chat(number)` comes to with SmolLM2's chat template."""

Message = dict[str, str]


def story(number: int, sentences: int) -> str:
    """`sentences` sentences of eight tokens each; the same number tells the same story."""
    chance = random.Random(number)

    def thing() -> str:
        return f"{chance.choice(ADJECTIVES)} {chance.choice(NOUNS)}"

    told = (f"The {thing()} {chance.choice(VERBS)} the {thing()}." for _ in range(sentences))
    return " ".join(told)


def chat(number: int, *, sentences: int = 9, shared: int = 0) -> list[Message]:
    """A system and a user message: 111 tokens as they are, 8 more for each sentence more.

    `shared`: open with so many sentences that are the same in every request.
    """
    opening = story(0, shared) + " " if shared else ""
    return [
        {"role": "system", "content": f"{opening}Story {number:06d}. You tell long stories."},
        {
            "role": "user",
            "content": story(number, sentences) + " Go on with this old story, at great length.",
        },
    ]
