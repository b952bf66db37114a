"""A real headless browser, controlled by chromedriver with the WebDriver protocol."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]


class Browser:
    """A browser with one page; a context manager."""

    def __init__(self, width: int = 1400, height: int = 1000, dark: bool = False) -> None:
        self.width, self.height, self.dark = width, height, dark

    def __enter__(self) -> Browser:
        assert DRIVER is not None
        self._process = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if match := re.search(r"on port (\d+)", line):
                self._address = f"http://127.0.0.1:{match[1]}/session"
                if match[1] != "0":
                    break
        options = {"binary": CHROMIUM, "args": _FLAGS}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("", {"capabilities": {"alwaysMatch": wanted}})
        self._address += f"/{session['sessionId']}"
        shape = {"width": self.width, "height": self.height, "deviceScaleFactor": 1, "mobile": self.width < 500}
        self.command("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(self, *_: object) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(self._address, method="DELETE"), timeout=30).close()
        finally:
            self._process.terminate()
            self._process.wait(30)
            assert self._process.stdout is not None
            self._process.stdout.close()

    def open(self, path: Path) -> None:
        """Open a file."""
        self._send("/url", {"url": path.absolute().as_uri()})

    def run(self, script: str) -> Any:
        """Run a function body in the page and return its result; a promise is awaited."""
        return self._send("/execute/sync", {"script": script, "args": []})

    def command(self, name: str, **parameters: Any) -> Any:
        """Send a command of the browser's own protocol."""
        return self._send("/goog/cdp/execute", {"cmd": name, "params": parameters})

    def errors(self) -> list[str]:
        """Return errors and warnings in the page's console."""
        return [
            entry["message"] for entry in self._send("/se/log", {"type": "browser"}) if entry["level"] in ("SEVERE", "WARNING")
        ]

    def screenshot(self, path: Path) -> None:
        """Write a screenshot as PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def _send(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(
            self._address + path, json.dumps(content).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())["value"]
