from types import SimpleNamespace


def _named(value):
    if isinstance(value, dict):
        return SimpleNamespace(**{key: _named(part) for key, part in value.items()})
    return [_named(part) for part in value] if isinstance(value, list) else value


class BaseCyclicClient:
    def __init__(self, router):
        self._router = router

    def RefreshFeedback(self, options=None):
        return _named(self._router.call("RefreshFeedback", options)["feedback"])
