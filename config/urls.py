from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerView

admin.site.site_header = admin.site.site_title = "llmapi"
admin.site.index_title = "Administration"
# The lists are wide, and the index is one click away.
admin.site.enable_nav_sidebar = False


def no_icon(request: HttpRequest) -> HttpResponse:
    """Browsers ask for one beside every page; that there is none is no error."""
    return HttpResponse(status=204, headers={"Cache-Control": "max-age=86400"})


urlpatterns = [
    path("", RedirectView.as_view(url="/docs/")),
    path("", include("llmapi.urls")),
    path("openapi.json", SpectacularJSONAPIView.as_view(), name="schema"),
    path("docs/", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("favicon.ico", no_icon),
    path("admin/", admin.site.urls),
]

handler400 = "llmapi.errors.bad_request"
handler404 = "llmapi.errors.not_found"
handler500 = "llmapi.errors.server_error"
