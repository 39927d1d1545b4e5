"""What a request can be told instead of an answer."""

from __future__ import annotations


class RequestError(Exception):
    """A request that is not answered: status, a word for programs, a sentence for people.

    Parameters
    ----------
    status : int
    error : str
    message : str
    """

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message


def bad(message: str) -> RequestError:
    """The request itself is wrong."""
    return RequestError(400, "bad_request", message)


def late() -> RequestError:
    """Nobody waits for the answer any more."""
    return RequestError(503, "deadline", "the deadline passed while it waited")


def busy(message: str) -> RequestError:
    """Nothing is wrong with the request; later it may be answered."""
    return RequestError(503, "overloaded", message)
