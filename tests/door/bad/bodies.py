"""Bodies that are no JSON object in UTF-8, and Content-Types that say so."""

from tests.door.bad.line import CHAT, POSTS, Bad

CONTENT_TYPE = "content-type"
DEEP = 100_000

MALFORMED = [
    (b"", "empty"),
    (b"  \n ", "empty"),
    (b"{", "not JSON"),
    (b"hello", "not JSON"),
    (b"{'n': 1}", "not JSON"),
    (b'{"n": 1,}', "not JSON"),
    (b'{"n": 1} {}', "not JSON"),
    (b'{"n": 01}', "not JSON"),
    (b'{"n": +1}', "not JSON"),
    (b'{"n": .5}', "not JSON"),
    (b'{"n": "\x01"}', "not JSON"),
    (b'{"n": "\\x41"}', "not JSON"),
    (b'{"n": "\\u12"}', "not JSON"),
    (b"n=1&m=2", "not JSON"),
    (b"\x00", "not JSON"),
    (b"\xff\xfe{\x00}\x00", "not UTF-8"),
    (b"\xed\xa0\x80", "not UTF-8"),
    (b'{"n": "\xff"}', "not UTF-8"),
    (b"\x1f\x8b\x08\x00compressed", "not UTF-8"),
    (b'{"n": "\\ud800"}', "lone surrogate"),
    (b'{"n": "\\udfff\\ud800"}', "lone surrogate"),
    (b'{"\\udfff": 1}', "lone surrogate"),
    (b'{"n": NaN}', "NaN"),
    (b'{"n": [NaN]}', "NaN"),
    (b'{"n": Infinity}', "Infinity"),
    (b'{"n": -Infinity}', "-Infinity"),
    (b'{"n": 1e999}', "too large"),
    (b'{"n": -1e999}', "too large"),
    (b'{"n": 1' + b"0" * 400 + b"}", "too large"),
    (b'{"n": 1' + b"0" * 5000 + b"}", "too large"),
    (b'{"n": 1, "n": 2}', "twice"),
    (b'{"n": {"m": 1, "m": 1}}', "twice"),
    (b'{"n": 1, "\\u006e": 2}', "twice"),
    (b"[" * DEEP, "nested"),
    (b'{"a":' * DEEP, "nested"),
    (b'{"n": ' + b"[" * DEEP + b"]" * DEEP + b"}", "nested"),
]

NOT_JSON = [
    *("", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"),
    *("application/octet-stream", "application/json, text/plain", "json", ";", "application"),
]
NOT_UTF_8 = [
    *("zlib", "utf-7", "utf-16", "UTF-16LE", "latin-1", "rot13", "hex", "idna", "undefined"),
    *("unicode_escape", "../../etc/passwd", "x" * 1000, "é", ""),
]
ODD_PARAMETERS = [
    *("charset*=nonsense'en'x", "charset*=zlib'en'x", "charset*0=ut; charset*1=f-8"),
    *("charset*=undefined'en'x", "charset*=utf-8''%FF"),
]
ENCODINGS = ["gzip", "deflate", "br", "zstd", "identity, gzip", "nonsense"]

LINES = [
    *(
        Bad("POST", path, 400, "invalid_json", None, body, says=words)
        for path in POSTS
        for body, words in MALFORMED
    ),
    *(
        Bad("POST", path, 415, "unsupported_media_type", None, {}, {CONTENT_TYPE: kind}, "JSON")
        for path in POSTS
        for kind in NOT_JSON
    ),
    *(
        Bad("POST", path, 415, "unsupported_media_type", None, {}, {CONTENT_TYPE: kind}, "UTF-8")
        for path in POSTS
        for kind in (
            "application/json ; CharSet = utf-7",
            *(f"application/json; charset={charset}" for charset in NOT_UTF_8),
        )
    ),
    *(
        Bad("POST", path, 415, "unsupported_media_type", None, {}, {"content-encoding": coding})
        for path in POSTS
        for coding in ENCODINGS
    ),
]

OVER_THE_CAP = [Bad("POST", path, 413, "request_too_large", None, b"x" * 100_000) for path in POSTS]
"""Where LLMAPI_MAX_BODY_BYTES is less."""

HARMLESS = [
    Bad("POST", CHAT, 200, None, None, {}, {CONTENT_TYPE: kind})
    for kind in (
        "application/json",
        "application/json; charset=utf-8",
        'APPLICATION/JSON;CHARSET="UTF-8"',
        "application/json; charset=utf8; odd=é",
        "text/json",
        "application/json;",
        'application/json ; Charset = "utf-8"',
        *(f"application/json; {odd}" for odd in ODD_PARAMETERS),
    )
]
"""Content-Types with which a good body is read."""
