class KServerException(Exception):
    """The arm refuses."""
