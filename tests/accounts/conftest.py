import pytest

from accounts.models import User


@pytest.fixture
def alice(db: None) -> User:
    return User.objects.create_user("alice")


@pytest.fixture
def staff_client(db: None, client):  # type: ignore[no-untyped-def]
    staff = User(username="staff", is_staff=True, is_superuser=True)
    staff.set_unusable_password()
    staff.save()
    client.force_login(staff)
    return client
