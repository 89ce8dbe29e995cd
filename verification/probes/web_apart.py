"""Runs on the host: its nginx configuration once more, in a private network, with an echo in Prosody's place.

    unshare --mount --net python3 web_apart.py PROBE

The running nginx is not touched; nothing that is done here is seen outside. PROBE is JSON:
`method`, `name` and `path` to ask for, `headers` to send, and `hidden`, domains whose certificates are hidden before.
Prints JSON: what the backend got (`request_line`, `headers`, the client's own address), or `refused`.
"""

import http.server
import json
import socket
import ssl
import subprocess
import sys
import threading
import time

STORE = "/etc/portcullis/certificates"


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it was asked."""

    def do_GET(self):
        body = json.dumps({"request_line": self.requestline, "headers": self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, format, *arguments):
        """Say nothing."""


def start(hidden):
    """Start the echo and nginx; returns nginx."""
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["mount", "-t", "tmpfs", "tmpfs", "/run/nginx"],
        *(["mount", "-t", "tmpfs", "tmpfs", STORE + "/" + domain] for domain in hidden),
        ["/usr/local/lib/portcullis/web-certificates"],
    ):
        subprocess.run(command, check=True)
    echo = http.server.HTTPServer(("127.0.0.1", 5280), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    return subprocess.Popen(["nginx", "-g", "daemon off; pid /run/nginx/apart.pid;"])


def connect(deadline):
    """A connection to port 443, as soon as nginx listens."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", 443), 5)
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def ask(method, name, path, headers):
    """What the backend got of a request, or how the handshake was refused."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with connect(time.monotonic() + 5) as plain:
        try:
            channel = context.wrap_socket(plain, server_hostname=name)
        except ssl.SSLError as error:
            return {"refused": error.reason}
        lines = [method + " " + path + " HTTP/1.1", "Host: " + name, "Connection: close"]
        lines += [field + ": " + value for field, value in headers]
        channel.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while True:
            data = channel.recv(65536)
            if not data:
                break
            answer += data
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def main():
    """Do the probe of the command line."""
    probe = json.loads(sys.argv[1])
    nginx = start(probe["hidden"])
    try:
        print(json.dumps(ask(probe["method"], probe["name"], probe["path"], probe["headers"])))
    finally:
        nginx.terminate()
        nginx.wait()


if __name__ == "__main__":
    main()
