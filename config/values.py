"""What values of settings may be, beside numbers and words; and what is wrong with one."""

from collections.abc import Mapping
from typing import Annotated, Any

import dj_database_url
from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode
from redis.connection import parse_url as parse_redis_url


def split_commas(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def split_pairs(value: object) -> object:
    """`a=b,c=d`, in one string or in several."""
    if isinstance(value, dict):
        return value
    words = value if isinstance(value, list) else [value]
    parts = [part.strip() for word in words for part in str(word).split(",")]
    pairs: dict[str, str] = {}
    for part in filter(None, parts):
        name, equals, meant = (side.strip() for side in part.partition("="))
        if not (name and equals and meant):
            raise ValueError(
                f"takes name=value pairs, separated by commas; '{part}' is no such pair"
            )
        if name in pairs:
            raise ValueError(f"names '{name}' twice")
        pairs[name] = meant
    return pairs


def are_no_chains(value: dict[str, str]) -> dict[str, str]:
    for alias, target in value.items():
        if target == alias:
            raise ValueError(
                f"'{alias}' stands for itself; a model's own name needs no alias: leave it out"
            )
        if target in value:
            raise ValueError(
                f"'{alias}' stands for '{target}', which is an alias itself; name the model"
            )
    return value


def is_database_url(value: str) -> str:
    scheme = value.partition("://")[0]
    try:
        dj_database_url.parse(value)
    except Exception as error:
        raise ValueError(
            "is not a database URL such as postgres://user:password@host:5432/name"
        ) from error
    if scheme not in ("postgres", "postgresql", "sqlite"):
        raise ValueError("must be a PostgreSQL (postgres://) or SQLite (sqlite:///) URL")
    return value


def is_redis_url(value: str) -> str:
    try:
        parse_redis_url(value)
    except ValueError as error:
        raise ValueError("is not a URL such as redis://127.0.0.1:6379/0") from error
    return value


CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(split_commas)]
Pairs = Annotated[dict[str, str], NoDecode, BeforeValidator(split_pairs)]
Aliases = Annotated[Pairs, AfterValidator(are_no_chains)]
DatabaseUrl = Annotated[str, AfterValidator(is_database_url)]
RedisUrl = Annotated[str, AfterValidator(is_redis_url)]


def sentence_of(problem: Mapping[str, Any]) -> str:
    """What is wrong with a value, beginning with its verb; `problem`: one of a
    ValidationError's."""
    told = problem.get("ctx", {})
    match problem["type"]:
        case "greater_than_equal":
            return f"must be at least {told['ge']:g}"
        case "greater_than":
            return f"must be above {told['gt']:g}"
        case "less_than_equal":
            return f"must be at most {told['le']:g}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "must be a whole number"
        case "float_parsing" | "float_type":
            return "must be a number"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case "string_too_short":
            return f"must have at least {told['min_length']} characters"
        case "string_too_long":
            return f"must have at most {told['max_length']} characters"
        case "literal_error":
            return f"must be {told['expected']}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{message[:1].lower()}{message[1:]}"
