"""A headless browser for tests, by nothing but its own debugging pipe."""

import base64
import json
import os
import select
import subprocess

PATIENCE = 120  # seconds; the machine may be busy


class Browser:
  """A headless Chromium, driven over its debugging pipe (file descriptors 3 and 4)."""

  def __init__(self, program, folder):
    out_read, self._write = os.pipe()
    self._read, in_write = os.pipe()
    # As root, which containers are, it refuses to start with its sandbox.
    options = "--headless=new --no-sandbox --disable-gpu --no-first-run "
    options += "--disable-dev-shm-usage --remote-debugging-pipe"
    shell = f'exec "$0" "$@" 3<&{out_read} 4>&{in_write}'
    words = [program, *options.split(), f"--user-data-dir={folder}", "about:blank"]
    self._process = subprocess.Popen(
      ["bash", "-c", shell, *words],
      pass_fds=(out_read, in_write),
      stderr=subprocess.DEVNULL,
    )
    os.close(out_read)
    os.close(in_write)
    self._rest, self._calls, self._session, self.events = b"", 0, None, []
    page = self.call("Target.createTarget", url="about:blank")["targetId"]
    attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Network", "Log", "Runtime"):
      self.call(f"{domain}.enable")

  def call(self, method, **params):
    self._calls += 1
    message = {"id": self._calls, "method": method, "params": params}
    if self._session:
      message["sessionId"] = self._session
    os.write(self._write, json.dumps(message).encode() + b"\0")
    while (answer := self._next()).get("id") != self._calls:
      self.events.append(answer)
    assert "error" not in answer, answer
    return answer["result"]

  def open(self, path, width, height, scheme):
    """Loads a file into a window of that size; forgets what happened before."""
    self.call(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 500,
    )
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    self.call("Emulation.setEmulatedMedia", features=media)
    self.events.clear()
    self.call("Page.navigate", url=path.as_uri())
    while not any(e["method"] == "Page.loadEventFired" for e in self.events):
      self.events.append(self._next())

  def value(self, expression):
    found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
    return found["result"].get("value")

  def picture(self):
    return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

  def close(self):
    self._process.terminate()
    self._process.wait(timeout=30)
    os.close(self._write)
    os.close(self._read)

  def _next(self):
    while b"\0" not in self._rest:
      ready, _, _ = select.select([self._read], [], [], PATIENCE)
      assert ready, f"the browser said nothing for {PATIENCE} s"
      chunk = os.read(self._read, 1 << 20)
      assert chunk, f"the browser ended with {self._process.poll()}"
      self._rest += chunk
    message, self._rest = self._rest.split(b"\0", 1)
    return json.loads(message)
