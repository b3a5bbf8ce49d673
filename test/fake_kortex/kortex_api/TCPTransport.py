import json
import socket


class TCPTransport:
    """One connection; a call is a line of JSON and so is its answer."""

    def connect(self, ip, port):
        self._socket = socket.create_connection((ip, port), timeout=2.0)
        self._lines = self._socket.makefile("r")

    def ask(self, message, timeout_s):
        self._socket.settimeout(timeout_s)
        self._socket.sendall((json.dumps(message) + "\n").encode())
        try:
            while True:
                answer = json.loads(self._lines.readline() or '{"closed": true}')
                if answer.get("id") == message["id"] or "closed" in answer:
                    return answer
        except OSError:
            self._lines = self._socket.makefile("r")  # one that has timed out reads no more
            raise

    def disconnect(self):
        if hasattr(self, "_socket"):
            self._socket.close()
