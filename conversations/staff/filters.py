"""Filters of the history's lists in the admin."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest

from accounts.models import ApiKey, User
from conversations import selectors
from conversations.models import Completion, Label, Review


class TextFilter(admin.SimpleListFilter):
    """A box to type into: a list of all users or keys would be as long as their table."""

    template = "admin/conversations/text_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]

    def choices(self, changelist: Any) -> Iterator[Any]:
        mine = [self.parameter_name, "p"]
        yield {
            "parameter": self.parameter_name,
            "value": self.value() or "",
            "others": [(k, v) for k, v in changelist.params.items() if k not in mine],
            "without": changelist.get_query_string(remove=mine),
        }

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = (self.value() or "").strip()
        return queryset.filter(self.condition(value)) if value else queryset

    def condition(self, value: str) -> Q:
        raise NotImplementedError


class UserFilter(TextFilter):
    title = "user name"
    parameter_name = "user"

    def condition(self, value: str) -> Q:
        return Q(user__in=users_named(value))


class KeyFilter(TextFilter):
    """By name, by public id, or as the key is shown: sk-PUBLICID…."""

    title = "key: name or sk-…"
    parameter_name = "key"

    def condition(self, value: str) -> Q:
        public_id = value.removeprefix("sk-")[:8]
        keys = ApiKey.objects.filter(Q(name__iexact=value) | Q(public_id=public_id))
        return Q(api_key__in=list(keys.values_list("pk", flat=True)))


def users_named(name: str) -> list[int]:
    """Their primary keys, looked up first: with those the database knows which index to use, where
    a join would have it walk through everybody's rows."""
    return list(User.objects.filter(username__iexact=name).values_list("pk", flat=True))


class OverCompletions(admin.SimpleListFilter):
    """A choice that holds for a completion, or for a conversation by one of its completions: of a
    user by any, of all users by one of the newest 10,000 for which it holds."""

    def condition(self, value: str) -> Q:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        condition = self.condition(value)
        if queryset.model is Completion:
            return queryset.filter(condition)
        if self.is_of_one_user(request):
            completions = Completion.objects.filter(condition, conversation=OuterRef("pk"))
            return queryset.filter(Exists(completions))
        # What few or none have would be looked for in every conversation that there is.
        newest = self.newest(condition).values("conversation")[: selectors.DEEPEST]
        return queryset.filter(pk__in=newest)

    def newest(self, condition: Q) -> QuerySet[Completion]:
        return (
            Completion.objects.filter(condition).exclude(conversation=None).order_by("-created_at")
        )

    def is_of_one_user(self, request: HttpRequest) -> bool:
        return bool(request.GET.get(UserFilter.parameter_name, "").strip())

    def leaves_out(self, request: HttpRequest) -> bool:
        """Whether a list of conversations may lack some for which it holds."""
        value = self.value()
        if not value or self.is_of_one_user(request):
            return False
        deepest = selectors.DEEPEST
        return self.newest(self.condition(value))[deepest : deepest + 1].exists()


class ModelFilter(OverCompletions):
    title = "model"
    parameter_name = "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in selectors.recent_models()]

    def condition(self, value: str) -> Q:
        return Q(model=value)


class StatusFilter(OverCompletions):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in Completion.Status]

    def condition(self, value: str) -> Q:
        return Q(status=value)


class ReviewedFilter(admin.SimpleListFilter):
    title = "review"
    parameter_name = "reviewed"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "unreviewed, or gone on since"), ("yes", "reviewed")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.value() not in ("yes", "no"):
            return queryset
        return queryset.filter(reviewed_at__isnull=self.value() == "no")


class OverReviews(admin.SimpleListFilter):
    """A choice that holds for a conversation's review. Reviews are few, for people write them: the
    conversations are looked up by theirs."""

    def condition(self, value: str) -> Q:
        raise NotImplementedError

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        reviews = Review.objects.filter(self.condition(value))
        return queryset.filter(pk__in=reviews.values("pk"))


class ScoreFilter(OverReviews):
    title = "score"
    parameter_name = "score"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [*((str(score), str(score)) for score in range(1, 6)), ("none", "no score")]

    def condition(self, value: str) -> Q:
        if value == "none":
            return Q(score=None)
        return Q(score=int(value)) if value in "12345" else Q(pk=None)


class LabelFilter(OverReviews):
    title = "label"
    parameter_name = "label"
    most = 100

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        names = Label.objects.order_by("name").values_list("name", flat=True)[: self.most]
        return [(name, name) for name in names]

    def condition(self, value: str) -> Q:
        return Q(labels__name=value)


class ReviewerFilter(TextFilter):
    title = "reviewer"
    parameter_name = "reviewer"

    def condition(self, value: str) -> Q:
        return Q(pk__in=Review.objects.filter(reviewer__username__iexact=value).values("pk"))
