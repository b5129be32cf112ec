"""A browser without a head, spoken to over WebDriver with nothing but the standard library."""

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"enter": "\ue007", "tab": "\ue004", "escape": "\ue00c", "control": "\ue009"}
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1280,860"]


class Failed(Exception):
    """WebDriver said no."""


def until(what, condition, within=15):
    """Asks again and again; a condition that is not met answers something false, or is not answered at all."""
    began, last = time.monotonic(), None
    while time.monotonic() - began < within:
        try:
            last = condition()
            if last:
                return last
        except Failed as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not within {within} s: {what}; last seen: {last}")


class Browser:
    def __init__(self, language="en-US", log=None):
        self.profile = tempfile.mkdtemp(prefix="page-")
        self.driver = subprocess.Popen([shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE, stderr=log, text=True)
        port = None
        for line in self.driver.stdout:
            found = re.search(r"successfully on port (\d+)", line)
            if found:
                port = found.group(1)
                break
        self.base = f"http://127.0.0.1:{port}"
        flags = [*FLAGS, f"--user-data-dir={self.profile}", f"--accept-lang={language}"]
        options = {"binary": shutil.which("chromium"), "args": flags, "prefs": {"intl.accept_languages": language}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}, "unhandledPromptBehavior": "accept"}
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, method, path, body=None):
        data = json.dumps(body if body is not None else {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failed(json.load(error)["value"]["message"].splitlines()[0]) from None

    def do(self, method, path, body=None):
        return self.call(method, f"/session/{self.session}{path}", body)

    def end(self):
        try:
            self.do("DELETE", "")
        finally:
            self.driver.kill()
            self.driver.wait()
            shutil.rmtree(self.profile, ignore_errors=True)

    def open(self, url):
        self.do("POST", "/url", {"url": url})

    def run(self, script, *args):
        return self.do("POST", "/execute/sync", {"script": script, "args": list(args)})

    def find(self, css):
        return self.do("POST", "/element", {"using": "css selector", "value": css})[ELEMENT]

    def all(self, css):
        return [one[ELEMENT] for one in self.do("POST", "/elements", {"using": "css selector", "value": css})]

    def button(self, text, within="body"):
        """The button of that text."""
        path = f"//*[self::button or self::a][normalize-space()='{text}']"
        root = self.find(within)
        return self.do("POST", f"/element/{root}/element", {"using": "xpath", "value": "." + path})[ELEMENT]

    def click(self, element):
        self.do("POST", f"/element/{element}/click")

    def press(self, text, within="body"):
        until(f"a button '{text}' can be pressed", lambda: self.click(self.button(text, within)) is None)

    def text(self, css="main"):
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", css)

    def sees(self, words, css="main"):
        return until(f"'{words}' in {css}", lambda: words in self.text(css) or (None if not self.text(css) else False))

    def type(self, css, text):
        """What a person types into a field in place of what is there."""
        element = self.find(css)
        self.run("arguments[0].select()", {ELEMENT: element})
        self.do("POST", f"/element/{element}/value", {"text": text})

    def keys(self, *keys, held=None):
        down = [{"type": "keyDown", "value": KEYS[held]}] if held else []
        for key in keys:
            value = KEYS.get(key, key)
            down += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        if held:
            down.append({"type": "keyUp", "value": KEYS[held]})
        self.do("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": down}]})

    def devtools(self, command, **params):
        return self.do("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def complaints(self):
        return [entry["message"] for entry in self.do("POST", "/se/log", {"type": "browser"}) if entry["level"] == "SEVERE"]

    def picture(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.do("GET", "/screenshot")))
