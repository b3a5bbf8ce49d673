"""What the commands say to inputs that were spoilt: bags, data sets, checkpoints, settings."""
