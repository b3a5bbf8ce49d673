"""A policy for the LIBERO benchmark: the scripted expert's demonstrations, and one multi-task policy of them."""
