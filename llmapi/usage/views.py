"""`GET /v1/usage`: what was used, in buckets; a user's own, for staff with the right everyone's."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts.errors import PermissionRefused
from accounts.models import ApiKey, Scope, User
from accounts.rights import staff_may
from conversations.errors import NotFound
from conversations.usage.query import WIDTHS, UsageQuery
from conversations.usage.totals import UsageRow, usage
from llmapi.schema import ErrorResponse, UsagePageResponse
from llmapi.usage.query import (
    BUCKETS,
    GROUPS,
    LARGEST_LIMIT,
    LATEST,
    UsageQuestion,
    read_question,
)
from llmapi.views import ERRORS


def parameter(name: str, kind: Any, description: str, **options: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, description=description, **options)


class UsageView(APIView):
    scope = Scope.HISTORY

    @extend_schema(
        operation_id="readUsage",
        summary="Read what was used",
        description="Requests and tokens in buckets of an hour or a day (UTC), oldest first, each "
        "request counted in the bucket in which it began; buckets are whole, also the first and "
        "the last. The shapes are those of OpenAI's organization usage. Users read their own "
        "usage, staff with the right to see it everyone's.",
        parameters=[
            parameter(
                "start_time",
                {"type": "integer", "minimum": 0, "maximum": LATEST},
                "Unix time in seconds. Default: 7 days, or 24 hours, that end with `end_time`.",
            ),
            parameter(
                "end_time",
                {"type": "integer", "minimum": 1, "maximum": LATEST},
                "Unix time in seconds, exclusive. Default: now.",
            ),
            parameter("bucket_width", str, "Default: `1d`.", enum=list(BUCKETS)),
            parameter(
                "group_by",
                str,
                "A result for each of these; `user` is for staff. May be repeated.",
                many=True,
                enum=list(GROUPS),
            ),
            parameter("models", str, "Of these models alone.", many=True),
            parameter("api_key_ids", str, "Of these keys alone: their public ids.", many=True),
            parameter("user_ids", str, "Of these users alone, by name; for staff.", many=True),
            parameter(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": max(LARGEST_LIMIT.values())},
                "Buckets in a page: 7 of 31 days at most, 24 of 168 hours at most.",
            ),
            parameter("page", str, "The `next_page` of the page before."),
        ],
        responses={
            200: UsagePageResponse,
            400: OpenApiResponse(ErrorResponse, "A parameter is wrong; `param` names it."),
            401: ERRORS[401],
            403: OpenApiResponse(ErrorResponse, "The key is not for this, or not for all users."),
            404: OpenApiResponse(ErrorResponse, "There is no such key or user."),
        },
        tags=["Usage"],
    )
    def get(self, request: Request) -> Response:
        question = read_question(request.query_params)
        users = users_of(request, question)
        rows = usage(
            UsageQuery(
                start=question.start,
                end=question.starts[-1] + WIDTHS[question.width],
                width=question.width,
                group_by=question.group_by,
                users=users,
                keys=keys_of(question, users),
                models=question.models,
            )
        )
        return Response(page(question, rows, names_of(rows)))


# ---- whose ---------------------------------------------------------------------------------------


def users_of(request: Request, question: UsageQuestion) -> list[int] | None:
    """Primary keys of the users whose usage may be shown; None: all. Raises ApiError."""
    user, key = request.user, request.auth
    if not isinstance(key, ApiKey) or not isinstance(user, User):
        raise PermissionRefused(
            "Requests without an API key have no usage of their own. Send a key."
        )
    is_for_all = not key.scopes or Scope.ADMIN in key.scopes
    sees_all = is_for_all and staff_may(user, "conversations.view_usagehour")
    if not sees_all:
        others = [name for name in question.user_ids or [] if name != user.username]
        if others or "user" in question.group_by:
            raise PermissionRefused(
                "Only keys of staff users with the right to it may ask for the usage of others."
            )
        return [user.pk]
    if question.user_ids is None:
        return None
    found = dict(User.objects.filter(username__in=question.user_ids).values_list("username", "pk"))
    return [look_up(found, name, "user", "user_ids") for name in question.user_ids]


def keys_of(question: UsageQuestion, users: list[int] | None) -> list[int] | None:
    """Primary keys of the keys asked for; None: all. Another's key is as unknown as one that does
    not exist. Raises NotFound."""
    if question.api_key_ids is None:
        return None
    keys = ApiKey.objects.filter(public_id__in=question.api_key_ids)
    if users is not None:
        keys = keys.filter(user__in=users)
    found = dict(keys.values_list("public_id", "pk"))
    return [look_up(found, name, "API key", "api_key_ids") for name in question.api_key_ids]


def look_up(found: Mapping[str, int], name: str, kind: str, param: str) -> int:
    if name not in found:
        raise NotFound(kind, name, param=param)
    return found[name]


def names_of(rows: list[UsageRow]) -> dict[str, dict[int, str]]:
    """{"user" or "api_key": {primary key: how the API calls it}}, for those in these rows."""
    users = {row.group["user"] for row in rows if row.group.get("user")}
    keys = {row.group["api_key"] for row in rows if row.group.get("api_key")}
    return {
        "user": dict(User.objects.filter(pk__in=users).values_list("pk", "username")),
        "api_key": dict(ApiKey.objects.filter(pk__in=keys).values_list("pk", "public_id")),
    }


# ---- the answer ----------------------------------------------------------------------------------


def page(
    question: UsageQuestion, rows: list[UsageRow], names: dict[str, dict[int, str]]
) -> dict[str, Any]:
    by_bucket = defaultdict(list)
    for row in rows:
        by_bucket[row.start].append(result(row, names))
    width = WIDTHS[question.width]
    return {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": int(start.timestamp()),
                "end_time": int((start + width).timestamp()),
                "results": by_bucket[start],
            }
            for start in question.starts
        ],
        "has_more": question.next_page is not None,
        "next_page": question.next_page,
    }


def result(row: UsageRow, names: dict[str, dict[int, str]]) -> dict[str, Any]:
    used, group = row.usage, row.group
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": used.prompt_tokens,
        "input_cached_tokens": used.cached_tokens,
        "output_tokens": used.completion_tokens,
        "num_model_requests": used.requests,
        "num_failed_requests": used.failed,
        "num_cancelled_requests": used.cancelled,
        "mean_duration_ms": rounded(used.mean_duration_ms),
        "mean_first_token_ms": rounded(used.mean_first_token_ms),
        "model": group.get("model"),
        "api_key_id": names["api_key"].get(group.get("api_key", 0)),
        "user_id": names["user"].get(group.get("user", 0)),
        "kind": group.get("kind"),
    }


def rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 1)
