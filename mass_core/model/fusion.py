"""Fusion of task tokens and image features at one resolution of the decoder."""

from torch import Tensor, nn

from .blocks import CrossAttention, ResidualMLP, SelfAttention, tokens_as_voxels, voxels_as_tokens


class FusionBlock(nn.Module):
    """Tokens read the image, the image reads the tokens, then the tokens of all classes exchange information."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.tokens_read_image = CrossAttention(channels)
        self.tokens_mlp1 = ResidualMLP(channels)
        self.image_reads_tokens = CrossAttention(channels)
        self.image_mlp = ResidualMLP(channels)
        self.tokens_exchange = SelfAttention(channels)
        self.tokens_mlp2 = ResidualMLP(channels)

    def forward(self, image_BVC: Tensor, tokens_BTC: Tensor) -> tuple[Tensor, Tensor]:
        """Updated image features [B,V,C] and tokens [B,T,C]."""
        tokens = self.tokens_mlp1(self.tokens_read_image(tokens_BTC, image_BVC))
        image = self.image_mlp(self.image_reads_tokens(image_BVC, tokens))
        return image, self.tokens_mlp2(self.tokens_exchange(tokens))


class Fusion(nn.Module):
    """Two fusion blocks. The tokens of all classes take part together, so classes influence each other.

    Args:
        channels: C of features and tokens.
        summary_token: index of the token that sums up its class.
    """

    def __init__(self, channels: int, summary_token: int) -> None:
        super().__init__()
        self.summary_token = summary_token
        self.blocks = nn.ModuleList(FusionBlock(channels) for _ in range(2))

    def forward(self, features_BCdhw: Tensor, tokens_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Fused features [B,C,d,h,w] and one summary per class [B,K,C]."""
        image, tokens = voxels_as_tokens(features_BCdhw), tokens_BKTC.flatten(1, 2)
        for block in self.blocks:
            image, tokens = block(image, tokens)
        summary_BKC = tokens.unflatten(1, tokens_BKTC.shape[1:3])[:, :, self.summary_token]
        return tokens_as_voxels(image, features_BCdhw.shape[2:]), summary_BKC
