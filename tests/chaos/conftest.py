"""The servers of tests/serve."""

from tests.serve.conftest import databases, model_directory, module_servers, new_server

__all__ = ["databases", "model_directory", "module_servers", "new_server"]
