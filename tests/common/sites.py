"""A web server on this machine that misbehaves on demand, and the file that it has."""

import hashlib
import random
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

from dcgan.common.download import Source

FILE = random.Random(1).randbytes(300_000)
MD5 = hashlib.md5(FILE).hexdigest()
SHA256 = hashlib.sha256(FILE).hexdigest()
OTHER = random.Random(2).randbytes(300_000)
PAGE = b"\n  <!doctype HTML><title>Quota exceeded</title>"
# What the server does where a test asks for nothing else
GOOD = {
    "status": 200,
    "reason": None,  # the status's words, where not the usual ones
    "body": FILE,
    "type": "application/zip",
    "headers": {},  # put over all others
    "ranges": True,  # False: a Range is not honoured
    "length": True,  # False: no Content-Length, the end is the end
    "chunked": False,
    "send": None,  # so many bytes of what was promised, then the connection is cut
    "stall": False,  # instead of the cut: nothing more, and no end
    "raw": None,  # instead of any answer: these bytes
    "pace": 0,  # seconds between two pieces of the body
}


class Site(ThreadingHTTPServer):
    """A web server on this machine that misbehaves on demand and counts its bytes.

    `answers[path]` holds dicts of what differs from GOOD, one for each request in
    turn; the last one is for all that follow. A path without any answers well.
    """

    daemon_threads = True
    scheme = "http"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers, self.asked, self.sent = {}, [], []
        self.stalled, self.released = threading.Event(), threading.Event()

    def url(self, path="/file"):
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}{path}"

    def secure(self):
        """Speak HTTPS from now on, with a certificate that nobody trusts."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(__file__).with_name("self-signed.pem"))
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.scheme = "https"

    def source(self, path="/file", *answers, name="the course's copy"):
        self.answers[path] = list(answers)
        return Source(name, self.url(path))

    def handle_error(self, request, client_address):
        """Say nothing where the reader hung up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        """Keep quiet."""

    def do_GET(self):
        answers = self.server.answers.get(self.path) or [{}]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.server.asked.append((self.path, dict(self.headers)))
        self.server.sent.append(0)
        self.close_connection = True
        wish = SimpleNamespace(**{**GOOD, **answer})
        if wish.raw:
            self.wfile.write(wish.raw)
        else:
            self.answer(len(self.server.sent) - 1, wish)

    def answer(self, number, wish):
        status, body, place = self.chosen(wish)
        headers = {"Content-Type": wish.type, "Connection": "close"}
        if place:
            headers["Content-Range"] = place
        if wish.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif wish.length:
            headers["Content-Length"] = len(body)
        self.send_response(status, wish.reason)
        for name, value in {**headers, **wish.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.pour(number, body[: wish.send], wish)
        if wish.chunked and wish.send is None:
            self.wfile.write(b"0\r\n\r\n")
        if wish.stall:
            self.server.stalled.set()
            self.server.released.wait(30)

    def chosen(self, wish):
        """Return the status, the bytes and the Content-Range that the request gets."""
        asked = self.headers.get("Range")
        if not (asked and wish.ranges and wish.status == 200):
            return wish.status, wish.body, None
        first, whole = int(asked[len("bytes=") : -1]), len(wish.body)
        if first >= whole:
            return 416, b"", f"bytes */{whole}"
        return 206, wish.body[first:], f"bytes {first}-{whole - 1}/{whole}"

    def pour(self, number, body, wish):
        for start in range(0, len(body), 10_000):
            piece = body[start : start + 10_000]
            # Before it is written: whoever has it may ask at once how much was sent
            self.server.sent[number] += len(piece)
            self.wfile.write(
                b"%x\r\n%s\r\n" % (len(piece), piece) if wish.chunked else piece
            )
            if wish.pace:
                time.sleep(wish.pace)
