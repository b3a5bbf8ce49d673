class SessionManager:
    def __init__(self, router):
        self._router = router

    def CreateSession(self, login):
        self._router.call("CreateSession", login=vars(login))

    def CloseSession(self):
        self._router.call("CloseSession")
