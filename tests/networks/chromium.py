"""Chromium, told what to do through a pair of pipes: a page is opened and asked."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--remote-debugging-pipe"),
)


class Page:
    """A page in a Chromium of its own; `complaints` are those of its console."""

    def __init__(self, path, width, profile, anchor="", dark=False):
        there, self.write = os.pipe()
        self.read, back = os.pipe()
        self.profile = profile
        self.count, self.session, self.complaints, self.rest = 0, None, [], b""
        self.process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=lambda: _as_3_and_4(there, back),
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)
        [target] = [
            each["targetId"]
            for each in self.tell("Target.getTargets")["targetInfos"]
            if each["type"] == "page"
        ]
        attach = {"targetId": target, "flatten": True}
        self.session = self.tell("Target.attachToTarget", **attach)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.tell(f"{domain}.enable")
        size = {"width": width, "height": 900, "deviceScaleFactor": 1}
        size["mobile"] = width < 500
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        shade = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[shade])
        self.tell("Page.navigate", url=path.resolve().as_uri() + anchor)
        self.until("Page.loadEventFired")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tell("Browser.close")
        self.process.wait(30)
        os.close(self.write)
        os.close(self.read)

    def tell(self, method, **parameters):
        """Give an order, and return what came of it."""
        self.count += 1
        order = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            order["sessionId"] = self.session
        os.write(self.write, json.dumps(order).encode() + b"\0")
        while (told := self.next()).get("id") != self.count:
            pass
        assert "error" not in told, told
        return told["result"]

    def until(self, event):
        """Wait for an event, and return what is told of it."""
        while (told := self.next()).get("method") != event:
            pass
        return told["params"]

    def next(self, seconds=60):
        """Return the next message, within some time; note what the console says."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            assert time.monotonic() < end, "Chromium says nothing"
            part = os.read(self.read, 2**20)
            assert part, "Chromium has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        told = json.loads(message)
        if told.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(told["params"])
        if told.get("method") == "Runtime.consoleAPICalled":
            self.complaints.append(told["params"])
        return told

    def ask(self, script):
        """Return the value of a script in the page, a promise's when it is kept."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        told = self.tell("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def download(self, script):
        """Run a script in the page that saves a file; return the file's Path."""
        folder = Path(tempfile.mkdtemp(dir=self.profile))
        there = {"behavior": "allow", "downloadPath": str(folder)}
        self.tell("Browser.setDownloadBehavior", **there, eventsEnabled=True)
        self.ask(script)
        while self.until("Browser.downloadProgress")["state"] != "completed":
            pass
        [file] = folder.iterdir()
        return file

    def photograph(self, path):
        """Write the whole page as a PNG."""
        height = self.ask("document.documentElement.scrollHeight")
        width = self.ask("innerWidth")
        area = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        options = {"clip": area, "captureBeyondViewport": True}
        data = self.tell("Page.captureScreenshot", **options)["data"]
        path.write_bytes(base64.b64decode(data))


def _as_3_and_4(read, write):
    """In the new process: make two descriptors those that Chromium looks for."""
    read, write = (os.dup(each) for each in (read, write))
    if {read, write} & {3, 4}:
        read, write = (os.dup(each) for each in (read, write))
    os.dup2(read, 3)
    os.dup2(write, 4)
