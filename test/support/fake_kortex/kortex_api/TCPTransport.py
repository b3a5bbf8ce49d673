import json
import socket


class TCPTransport:
    """One connection; a call is a line of JSON and so is its answer. Prints what fails, as the real one does."""

    heard = None
    """The router's callback, for a message that is no answer."""

    def connect(self, ip, port):
        self._socket = socket.create_connection((ip, port), timeout=2.0)
        self._lines = self._socket.makefile("r")

    def ask(self, message, timeout_s):
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall((json.dumps(message) + "\n").encode())
        except OSError as error:
            print(error)
            raise
        try:
            while True:
                answer = json.loads(self._lines.readline() or '{"closed": true}')
                if answer.get("id") == message["id"] or "closed" in answer:
                    return answer
                if "stray" in answer:
                    self.heard(answer["stray"])
        except OSError:
            self._lines = self._socket.makefile("r")  # one that has timed out reads no more
            raise

    def disconnect(self):
        if hasattr(self, "_socket"):
            self._socket.close()
