"""How much is computed at once."""

from dataclasses import dataclass

from ...errors import InputError
from ...failures import is_out_of_memory


@dataclass
class Batch:
    """A batch size that remembers when memory did not suffice."""

    size: int

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        if self.size < 1:
            raise InputError(f"The batch size is {self.size}.", "Choose 1 or more.")

    def halve(self, error: BaseException) -> None:
        """Go on with half the size after a failure for want of memory; other failures, and those of a batch of one, are raised again."""
        if self.size == 1 or not is_out_of_memory(error):
            raise error
        self.size //= 2
