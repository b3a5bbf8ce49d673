"""OpenVLA-OFT (arXiv 2502.19645): one bidirectional pass over images, state, prompt and empty action slots; L1 head."""
