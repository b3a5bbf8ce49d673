"""What is measured on the LIBERO benchmark: the scripted expert, a policy in closed loop, and how far patterns move."""
