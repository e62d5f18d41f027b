"""The pages of staff, which register themselves; who may do what there, say their rights."""

from conversations.staff import (  # noqa: F401
    auditing,
    completions,
    conversations,
    labels,
    owners,
    processes,
)
