"""A Hub on this machine: real HTTP for the real client, without an account, with faults on request."""

from zoo.testing.faults import Fault
from zoo.testing.hub import LocalHub

__all__ = ["Fault", "LocalHub"]
