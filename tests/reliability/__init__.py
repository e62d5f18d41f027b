"""The promises of docs/reliability.md, measured against real servers: `make reliability`.

Each module measures one promise: its `measure()` returns a `Finding`, a row of the table. What can
be checked in seconds is a test elsewhere; here is what takes minutes.
"""
