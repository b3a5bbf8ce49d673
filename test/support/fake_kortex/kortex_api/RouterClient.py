import concurrent.futures
import itertools

from kortex_api.Exceptions.KClientException import KClientException
from kortex_api.Exceptions.KServerException import KServerException


class RouterClientSendOptions:
    timeout_ms = 10000


class RouterClient:
    """Calls by name. A reply that does not come in time is a TimeoutError, as in the real one."""

    def __init__(self, transport, callback):
        self._transport, self._numbers = transport, itertools.count()
        transport.heard = callback

    def basicErrorCallback(self, error):
        print(error)

    def call(self, name, options=None, **values):
        timeout = (options or RouterClientSendOptions()).timeout_ms / 1000.0
        try:
            answer = self._transport.ask({"id": next(self._numbers), "call": name, **values}, timeout)
        except TimeoutError as error:
            raise concurrent.futures.TimeoutError(f"{name}: no reply in {timeout} s") from error
        if "closed" in answer:
            raise KClientException("the connection is closed")
        if "error" in answer:
            raise KServerException(answer["error"])
        return answer
