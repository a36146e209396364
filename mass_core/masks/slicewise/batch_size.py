"""BatchSize size that adapts to memory."""

from dataclasses import dataclass

from ...errors import InputError, is_out_of_memory


@dataclass
class BatchSize:
    """A batch size that is halved when memory runs out."""

    size: int

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        if self.size < 1:
            raise InputError(f"The batch size is {self.size}.", "Choose 1 or more.")

    def halve(self, error: BaseException) -> None:
        """Halve the size after running out of memory; other errors, and those of a batch of one, are raised again."""
        if self.size == 1 or not is_out_of_memory(error):
            raise error
        self.size //= 2
