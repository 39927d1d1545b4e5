"""The service as users run it: a process of its own, asked over HTTP."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import regard

ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(regard.__file__).parents[1])}


class Service:
    """``regard serve`` on a free port.

    Parameters
    ----------
    model : path of a saved model
    folder : where it keeps its store and its log
    flags : of the command
    """

    def __init__(self, model, folder, *flags):
        self.log = Path(folder) / "service.log"
        command = [sys.executable, "-m", "regard", "serve", str(model), "--port", "0"]
        if "--store" not in flags:
            command += ["--store", str(Path(folder) / "events.sqlite")]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([*command, *map(str, flags)], stderr=log, cwd=folder, env=ENVIRONMENT)
        self.port = self.wait_for("listening")["port"]
        self.wait(lambda: self.get("/readyz")[0] == 200)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise

    # ---- requests -----------------------------------------------------------------------------------------------

    def request(self, method, path, body=None, headers=None, timeout=30):
        """Status, answer, headers; on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            content = answer.read()
            return (
                answer.status,
                json.loads(content) if b"json" in answer.getheader("content-type", "").encode() else content.decode(),
                dict(answer.getheaders()),
            )
        finally:
            connection.close()

    def get(self, path, **headers):
        try:
            return self.request("GET", path, headers=headers)
        except (ConnectionError, http.client.HTTPException):
            return None, None, None

    def post(self, path, request, **headers):
        """Status and answer."""
        body = request if isinstance(request, (bytes, str)) else json.dumps(request)
        return self.request("POST", path, body, headers)[:2]

    def ask(self, path="/v1/recommend", **request):
        """The answer, which has to be one."""
        status, answer = self.post(path, request)
        assert status == 200, answer
        return answer

    def metric(self, name):
        """Sum of all lines of a metric."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    # ---- processes ------------------------------------------------------------------------------------------------

    def events(self, name=None):
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if name is None or line["event"] == name]

    def wait_for(self, name):
        """The first line of the log with this event."""

        def there():
            assert self.process.poll() is None or self.events(name), self.log.read_text()
            return self.events(name)

        return self.wait(there)[0]

    def wait(self, condition, seconds=20):
        """What the condition gives as soon as it is true."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return found

    def workers(self):
        """Process ids of the workers that live."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children]


@contextlib.contextmanager
def asking(service, request, path="/v1/recommend"):
    """Asks again and again in a thread, on one connection; gives the list of (status, answer, seconds)."""
    answers, going = [], True

    def ask():
        connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
        while going:
            start = time.perf_counter()
            connection.request("POST", path, json.dumps(request))
            answer = connection.getresponse()
            content = json.loads(answer.read())
            answers.append((answer.status, content, time.perf_counter() - start))
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        going = False
        thread.join(30)
