"""A policy for the LIBERO benchmark: demonstrations by the scripted expert, and the training of one multi-task policy."""
