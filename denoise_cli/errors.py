"""What can go wrong, told in one line: `cli.app` is the only place that turns these into exit codes."""


class DenoiseError(Exception):
    """A failure at run time. Its message is one line that names the file or key, and the way out."""

    exit_code = 1


class UsageError(DenoiseError):
    """Wrong usage: a bad option, a bad config, a model that does not fit."""

    exit_code = 2
