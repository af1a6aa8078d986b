"""The one exception that is meant for a person to read."""


class UserError(Exception):
    """Bad input, told in one sentence that names the input and says what to do.

    The command line prints it as a single line and exits non-zero; a traceback at a
    user is a bug.
    """


def require(ok: bool, sentence: str) -> None:
    """Raises a UserError with this sentence unless all is well."""
    if not ok:
        raise UserError(sentence)
