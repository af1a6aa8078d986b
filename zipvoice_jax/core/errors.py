"""The exception whose message is meant for users."""


class UserError(Exception):
    """Bad input; the message is one sentence that names the input and says what to do.

    The command line prints it as a single line and exits non-zero; a traceback that reaches a
    user is a bug.
    """


def require(ok: bool, sentence: str) -> None:
    """Raises a UserError with this sentence unless `ok`."""
    if not ok:
        raise UserError(sentence)
