"""Users, groups, keys and invitations for staff. Neither users nor keys can be deleted: users are
deactivated, keys are revoked."""

from accounts.admin.groups import GroupAdmin
from accounts.admin.keys import ApiKeyAdmin
from accounts.admin.links import InvitationAdmin
from accounts.admin.users import UserAdmin

__all__ = ["ApiKeyAdmin", "GroupAdmin", "InvitationAdmin", "UserAdmin"]
