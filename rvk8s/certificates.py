"""What to do where a server's certificate is not taken."""

from __future__ import annotations


def fix_of(error: str, otherwise: str) -> str:
    """The fix for a certificate that was refused.

    Args:
        error: what OpenSSL says.
        otherwise: the fix where nothing hints at a clock.
    """
    if "not yet valid" in error:
        return "set the clock of this machine, which is behind"
    if "has expired" in error:
        return "is the clock of this machine ahead? else have the server's certificate renewed"
    return otherwise
