"""The one error of local clusters: what cannot be done here and now, and what to do about it."""

from __future__ import annotations

from holdfast.errors import CallerError


class LocalRefused(CallerError):
    """Something about this machine or directory stands in the way; nothing was changed."""

    code = 0
