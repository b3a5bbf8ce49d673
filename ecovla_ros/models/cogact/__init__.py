"""CogACT (arXiv 2411.19650): Prismatic makes one cognition vector, a diffusion transformer makes actions of it."""
