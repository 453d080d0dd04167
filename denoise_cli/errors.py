"""What can go wrong, told in one line: `cli.app` is the only place that turns these into exit codes."""


class DenoiseError(Exception):
    """A failure at run time. Its message is one line that names the file or key, and the way out."""

    exit_code = 1


class UsageError(DenoiseError):
    """Wrong usage: a bad option, a bad config, a model that does not fit."""

    exit_code = 2


def in_one_line(error: Exception, *, hint: str = "") -> str:
    """What went wrong, in one line; `hint` follows where it is the program's own fault."""
    if isinstance(error, DenoiseError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    first, *_ = str(error).splitlines() or [""]
    return f"internal error: {type(error).__name__}: {first}{hint}"
