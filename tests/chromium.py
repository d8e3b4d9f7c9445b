"""Chromium, told what to do through a pair of pipes: pages are opened and asked."""

import base64
import json
import os
import select
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

COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")

# A promise that is kept once READY holds
WAIT = """new Promise(kept => {
  const look = () => (READY) ? kept() : setTimeout(look, 20);
  look();
})"""


class Chromium:
    """A process of Chromium, in which one page after the other is opened."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="chromium-")
        there, self.write = os.pipe()
        self.read, back = os.pipe()
        self.count, self.rest = 0, b""
        self.process = subprocess.Popen(
            [CHROMIUM, *OPTIONS, f"--user-data-dir={self.profile.name}"],
            preexec_fn=lambda: _as_3_and_4(there, back),
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(there)
        os.close(back)

    def close(self):
        self.tell("Browser.close")
        self.process.wait(30)
        os.close(self.write)
        os.close(self.read)
        self.profile.cleanup()

    def tell(self, method, heard=lambda told: None, session=None, **parameters):
        """Give an order, to a page's session or to all, and return what came of it.

        heard: called with all messages that come before the answer.
        """
        self.count += 1
        order = {"id": self.count, "method": method, "params": parameters}
        if session:
            order["sessionId"] = session
        os.write(self.write, json.dumps(order).encode() + b"\0")
        while (told := self.next()).get("id") != self.count:
            heard(told)
        assert "error" not in told, told
        return told["result"]

    def next(self, seconds=60):
        """Return the next message, within some time."""
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            left = max(0, end - time.monotonic())
            assert select.select([self.read], [], [], left)[0], "Chromium says nothing"
            part = os.read(self.read, 2**20)
            assert part, "Chromium has ended"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


class Page:
    """A page in a tab of Chromium; `complaints` are those of its console."""

    def __init__(self, chromium, path, width=1280, anchor="", dark=False):
        self.chromium, self.complaints, self.session = chromium, [], None
        self.target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        attached = self.tell(
            "Target.attachToTarget", targetId=self.target, flatten=True
        )
        self.session = attached["sessionId"]
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
        self.chromium.tell("Target.closeTarget", targetId=self.target)

    def tell(self, method, **parameters):
        """Give an order, and return what came of it."""
        return self.chromium.tell(method, self.hear, self.session, **parameters)

    def hear(self, told):
        """Note what the console says."""
        if told.get("method") in COMPLAINTS:
            self.complaints.append(told["params"])

    def until(self, event):
        """Wait for an event, and return what is told of it."""
        while (told := self.chromium.next()).get("method") != event:
            self.hear(told)
        return told["params"]

    def ask(self, script):
        """Return the value of a script in the page, a promise's when it is kept."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        told = self.tell("Runtime.evaluate", expression=script, **options)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    def document(self, ready="true"):
        """Return the page's HTML, once an expression in its script holds."""
        self.ask(WAIT.replace("READY", ready))
        return self.ask("document.documentElement.outerHTML")

    def download(self, script):
        """Run a script in the page that saves a file; return the file's Path."""
        folder = Path(tempfile.mkdtemp(dir=self.chromium.profile.name))
        there = {"behavior": "allow", "downloadPath": str(folder)}
        self.chromium.tell("Browser.setDownloadBehavior", **there, eventsEnabled=True)
        self.ask(script)
        while self.until("Browser.downloadProgress")["state"] != "completed":
            pass
        [file] = folder.iterdir()
        return file

    def photograph(self, path):
        """Write the whole page as a PNG."""
        width, height = self.ask("[innerWidth, document.documentElement.scrollHeight]")
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
