class KClientException(Exception):
    """The call could not be made."""
