"""Other ways to pretrain the encoder, to compare with MASS."""
