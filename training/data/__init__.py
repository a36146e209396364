"""What the training scripts feed the network with."""
