from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.utils.decorators import method_decorator
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from accounts.middleware import HEADER, policy

admin.site.site_header = admin.site.site_title = "llmapi"
admin.site.index_title = "Administration"
# The lists are wide, and the index is one click away.
admin.site.enable_nav_sidebar = False


def no_icon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for one beside every page; that there is none is no error."""
    return HttpResponse(status=204, headers={"Cache-Control": "max-age=86400"})


def styles_inline(view: Any) -> Any:
    """Swagger's page brings a style of its own; its scripts are files, as everybody's."""

    def styled(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response: HttpResponse = view(request, *args, **kwargs)
        response[HEADER] = policy(style_src="'self' 'unsafe-inline'")
        return response

    return styled


class SwaggerView(SpectacularSwaggerSplitView):
    dispatch = method_decorator(styles_inline)(SpectacularSwaggerSplitView.dispatch)


urlpatterns = [
    path("", include("llmapi.urls")),
    path("", include("accounts.pages.urls")),
    path("", include("conversations.pages.urls")),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="schema"),
    path("docs/", SwaggerView.as_view(url_name="schema"), name="docs"),
    path("favicon.ico", no_icon),
    path("admin/", admin.site.urls),
]

handler400 = "llmapi.errors.bad_request"
handler403 = "llmapi.errors.not_allowed"
handler404 = "llmapi.errors.not_found"
handler500 = "llmapi.errors.server_error"
