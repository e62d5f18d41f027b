"""Text that means nothing, in the lengths and letters of what people and models write."""

from random import Random

VOCABULARY = (
    "the a one this of in and to is that it for on as with model answer question table river city "
    "train music garden contract invoice letter recipe winter engine memory island history number "
    "write explain compare translate list name describe shorten correct rewrite summarise please "
    "北京 上海 天气 今天 模型 问题 回答 翻译 中文 历史 "
    "quickly slowly carefully bright quiet early late"
)
SENTENCES = 4000


class Babble:
    """Sentences out of a store, for a text of its own would take longer than to save it."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._sentences = [self._sentence() for _ in range(SENTENCES)]

    def text(self, mean_sentences: int) -> str:
        count = self._random.randint(1, 2 * mean_sentences)
        return " ".join(self._random.choices(self._sentences, k=count))

    def _sentence(self) -> str:
        words = self._random.choices(VOCABULARY.split(), k=self._random.randint(6, 16))
        return " ".join(words).capitalize() + "."
