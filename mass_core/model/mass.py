"""The MASS network (paper figure 2): encoder E, task encoding T, decoder D."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ..config import ModelConfig
from ..errors import GeometryError, InputError
from .blocks import learned_tokens
from .decoder import Classifier, Decoder
from .encoder import build_encoder
from .task_encoding import TaskEncoder

Tokens = tuple[Tensor, ...]
"""Task tokens [B,K,queries+1,C], one tensor per stage, deepest first."""


class MASS(nn.Module):
    """In-context segmentation network: segments in an image what masks show in a reference image.

    Letters: B batch, K classes, D H W voxels along z, y, x; images are normalised (see preprocess).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        fused = config.channels[::-1][: config.stages]
        self.config = config
        self.encoder = build_encoder(config)
        encoded = fused if config.task_encoding else ()
        self.task_encoders = nn.ModuleList(
            TaskEncoder(c, config.stride >> stage, config.queries, config.position_size) for stage, c in enumerate(encoded)
        )
        self.decoder = Decoder(config.channels, config.stages, config.summary_token)
        self.classifier = Classifier(sum(fused), config.channels[0])
        for stage, c in enumerate(fused):
            self.register_buffer(f"class_tokens{stage}", learned_tokens(config.task_rows, config.queries + 1, c))

    def forward(self, image_B1DHW: Tensor, reference_B1DHW: Tensor, masks_BKDHW: Tensor) -> Tensor:
        """Logits [B,K,D,H,W] in the image of what the masks show in the reference."""
        return self.segment(image_B1DHW, self.encode_reference(reference_B1DHW, masks_BKDHW))

    def encode_reference(self, image_B1DHW: Tensor, masks_BKDHW: Tensor) -> Tokens:
        """Task tokens of a reference crop and its masks in {0,1}; each mask is encoded on its own.

        Raises:
            InputError: if the network has fixed classes.
            GeometryError: if an axis is not a multiple of the stride or exceeds the learned positions.
        """
        self.check_takes_references()
        stride, largest, size = self.config.stride, self.config.position_size, image_B1DHW.shape[2:]
        if any(n % stride or n > largest for n in size):
            raise GeometryError(
                f"A reference crop of {tuple(size)} voxels cannot be encoded.",
                f"Each side must be a multiple of {stride} and at most {largest}.",
            )
        features = self.encode_image(image_B1DHW)
        return tuple(encoder(level, masks_BKDHW) for encoder, level in zip(self.task_encoders, features, strict=False))

    def segment(self, image_B1DHW: Tensor, tokens: Tokens) -> Tensor:
        """Logits [B,K,D,H,W] for an image of any size."""
        return self.decode(self.encode_image(image_B1DHW), tokens)

    def encode_image(self, image_B1DHW: Tensor) -> list[Tensor]:
        """Feature maps [B,C,d,h,w], deepest first."""
        return self.encoder(image_B1DHW)

    def decode(self, features: Sequence[Tensor], tokens: Tokens) -> Tensor:
        """Logits [B,K,D,H,W] from the feature maps of an image and the tokens of K classes."""
        return self.classifier(*self.decoder(features, tokens))

    def class_tokens(self, rows: Sequence[int]) -> Tokens:
        """Stored tokens [1,len(rows),queries+1,C] of a fixed-class model.

        Raises:
            InputError: if a row does not exist.
        """
        unknown = [row for row in rows if not 0 <= row < self.config.task_rows]
        if unknown:
            raise InputError(f"The model stores {self.config.task_rows} classes, there is no class {unknown}.")
        return tuple(getattr(self, f"class_tokens{stage}")[list(rows)][None] for stage in range(self.config.stages))

    def with_fixed_classes(self, tokens: Tokens) -> "MASS":
        """A copy without task encoding that stores the tokens [1,K,queries+1,C] of its classes."""
        network = MASS(replace(self.config, task_encoding=False, task_rows=tokens[0].shape[1]))
        stored = {f"class_tokens{stage}": own[0] for stage, own in enumerate(tokens)}
        kept = {name: value for name, value in self.state_dict().items() if not name.startswith(("task_encoders.", "class_tokens"))}
        network.load_state_dict({**kept, **stored})
        return network.to(next(self.parameters()).device).train(self.training)

    def check_takes_references(self) -> None:
        """Check that the network takes references, which one of fixed classes does not.

        Raises:
            InputError: saying what to do instead.
        """
        if not self.config.task_encoding:
            raise InputError(
                "These weights were finetuned to fixed classes; they take no references.",
                "Segment without references, or choose the weights they were finetuned from.",
            )
