"""Where the pages of users are. The names are what templates and the navigation ask for."""

from django.urls import path
from django.views.generic import RedirectView
from django.views.i18n import set_language

from accounts.pages import keys, passwords, sign_in, sign_up, start

urlpatterns = [
    path("", start.start, name="start"),
    path("sign-in/", sign_in.SignIn.as_view(), name="sign_in"),
    path("sign-out/", sign_in.SignOut.as_view(), name="sign_out"),
    # The admin's own would let passwords be tried without end, and know no playground.
    path("admin/login/", sign_in.admin_sign_in),
    path("admin/logout/", sign_in.SignOut.as_view()),
    path("admin/password_change/", RedirectView.as_view(pattern_name="password")),
    path("sign-up/", sign_up.sign_up, name="sign_up"),
    path("sign-up/<str:token>/", sign_up.sign_up, name="invitation"),
    path("password/", passwords.PasswordChange.as_view(), name="password"),
    path("password/<uidb64>/<token>/", passwords.PasswordByLink.as_view(), name="password_link"),
    path("language/", set_language, name="set_language"),
    path("keys/", keys.keys, name="keys"),
    path("keys/new/", keys.new, name="key_new"),
    path("keys/<str:public_id>/", keys.key, name="key"),
    path("keys/<str:public_id>/revoke/", keys.revoke, name="key_revoke"),
    path("keys/<str:public_id>/rotate/", keys.rotate, name="key_rotate"),
]
