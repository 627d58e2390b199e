"""Typed faults. A fault has one boundary where it is caught, counted and turned into data.

Owns: the exception types shared by all packages. Refuses: handling.
"""

from __future__ import annotations


class AgentworldError(Exception):
    """Base of all errors a user may see: the message is one line that names the thing and the fix."""


class ConfigError(AgentworldError):
    """A config file, key or value is wrong."""


class TaskError(AgentworldError):
    """A task file or task is malformed."""


class SamplerFault(AgentworldError):
    """The sampler (policy engine) failed. Retryable within the run's budget; never a reward of 0."""


class WorldFault(AgentworldError):
    """The world (box, server, simulator) failed. Retryable within the run's budget; never a reward of 0."""


class BudgetSpent(AgentworldError):
    """A fault budget is used up: the run ends and says which one."""


class CheckpointError(AgentworldError):
    """A checkpoint is missing, incomplete or unreadable."""
