#!/usr/bin/env python3
"""A service that knows nothing of a registry: answers with the content of its file, which it reads again when asked to."""

import http.server
import pathlib
import sys

FILE = pathlib.Path("/tmp/outrigger-python/greeting.json")


class Answer(http.server.BaseHTTPRequestHandler):
    greeting = FILE.read_text() if FILE.exists() else "{}"

    def do_GET(self):
        self.answer("ok\n" if self.path == "/health" else Answer.greeting + "\n")

    def do_POST(self):
        if self.path == "/reload":
            Answer.greeting = FILE.read_text()
        self.answer("")

    def answer(self, text):
        self.send_response(200)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


http.server.HTTPServer.allow_reuse_address = True
sys.exit(http.server.HTTPServer(("127.0.0.1", 8089), Answer).serve_forever())
