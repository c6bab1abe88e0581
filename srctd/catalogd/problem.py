"""The refusal of a request, in SciCat's form."""

from http import HTTPStatus


class Problem(Exception):
    """Answered as `{"message": ..., "error": ..., "statusCode": ...}`."""

    def __init__(self, status: int, message: str | list[str]) -> None:
        super().__init__(message)
        self.status = status
        self.message = message

    def body(self) -> dict[str, object]:
        """What the client is told."""
        return {"message": self.message, "error": HTTPStatus(self.status).phrase, "statusCode": self.status}


def forbidden() -> Problem:
    """The refusal of a caller without the right; SciCat's words, by which clients know that they must log in."""
    return Problem(403, "Forbidden resource")
