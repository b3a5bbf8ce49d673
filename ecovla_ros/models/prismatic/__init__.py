"""What OpenVLA-OFT and CogACT share: two vision transformers side by side, a projector, and Llama (Prismatic VLMs)."""
