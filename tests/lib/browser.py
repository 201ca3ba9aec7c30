"""Debian's Chromium, without a window, driven through its chromedriver (W3C WebDriver over HTTP)."""

import base64
import http.client
import importlib.util
import json
import os
import pathlib
import subprocess

from . import server, tools

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""What WebDriver calls the id of an element."""
WAIT_SECONDS = 60
"""How long a page may take for anything: seconds, beside much other work."""
KEYS = {"tab": "\ue004", "enter": "\ue007", "escape": "\ue00c", "space": " "}


class Refused(Exception):
    """WebDriver could not do it."""


class Driver:
    """chromedriver, as a process; its browsers end with it."""

    def __init__(self, folder):
        tools.need("chromium", "chromedriver")
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.process = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env={**os.environ, "HOME": str(self.folder), "TMPDIR": str(self.folder)})
        self.port = None
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.port = int(line.rsplit(" ", 1)[1].rstrip(".\n"))
                break
        assert self.port, f"chromedriver ended with {self.process.wait()}"

    def call(self, method, path, body=None):
        """One command; gives its value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90)
        try:
            connection.request(method, path, body=None if body is None else json.dumps(body), headers={"content-type": "application/json"})
            told = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(told, dict) and "error" in told:
            raise Refused(f"{told['error']}: {told['message'].splitlines()[0]}")
        return told

    def stop(self):
        """Ends it."""
        self.process.terminate()
        self.process.wait()
        self.process.stdout.close()


class Browser:
    """One browser with a profile of its own, in which every name under .test is this machine."""

    def __init__(self, driver, *flags):
        self.driver = driver
        self.downloads = driver.folder / "downloads"
        self.downloads.mkdir(exist_ok=True)
        words = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--disable-extensions", "--lang=en-GB", "--window-size=1100,800",
                 "--host-resolver-rules=MAP *.test 127.0.0.1, MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", *flags]
        options = {"args": words, "prefs": {"download.default_directory": str(self.downloads), "download.prompt_for_download": False}}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"},
                  "unhandledPromptBehavior": "ignore"}
        self.session = driver.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
        self.said = []
        self.call("POST", "/timeouts", {"script": 1000 * WAIT_SECONDS})
        self.devtools("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def call(self, method, path, body=None):
        return self.driver.call(method, f"/session/{self.session}{path}", body)

    def close(self):
        self.call("DELETE", "")

    def open(self, url):
        self.call("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """Runs a function's body in the page; waits for what it promises."""
        return self.call("POST", "/execute/sync", {"script": f"return (async function () {{ {script}\n}}).apply(null, arguments)", "args": list(arguments)})

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def find(self, selector):
        return self.call("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def type(self, selector, words):
        self.call("POST", f"/element/{self.find(selector)}/value", {"text": str(words)})

    def click(self, selector):
        self.call("POST", f"/element/{self.find(selector)}/click", {})

    def press(self, *keys):
        """Presses keys, one after the other, wherever the focus is."""
        acts = [{"type": act, "value": KEYS.get(key, key)} for key in keys for act in ("keyDown", "keyUp")]
        self.call("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": acts}]})

    def text(self, selector):
        """What an element shows; '' where there is none."""
        return self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def shows(self, selector):
        """Is it there to be seen?"""
        return self.run("const found = document.querySelector(arguments[0]); return !!found && found.getClientRects().length > 0", selector)

    def wait(self, script, *arguments):
        """Waits until the page answers something true; gives that."""
        try:
            return server.wait_until(lambda: self.run(script, *arguments), f"{script} {arguments}", WAIT_SECONDS)
        except AssertionError as late:
            raise AssertionError(f"{late}; the page: {self.text('body')[-1500:]}") from None

    def wait_for_text(self, selector, words):
        """Waits until an element says so."""
        self.wait("return (document.querySelector(arguments[0])?.innerText ?? '').includes(arguments[1])", selector, words)

    def alert(self):
        """The text of a dialog of the browser's own, or None."""
        try:
            return self.call("GET", "/alert/text")
        except Refused:
            return None

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))

    def prefers(self, scheme):
        """Makes it a light or a dark system."""
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def look(self):
        """Takes in what the browser said in its console since the last look; what a policy stopped is there too."""
        self.said += [f"{entry['level']} {entry['message']}" for entry in self.call("POST", "/se/log", {"type": "browser"})]

    def asked(self):
        """The addresses that this page asked for, itself included."""
        return self.run("return [location.href, ...performance.getEntriesByType('resource').map((one) => one.name)]")

    def axe(self):
        """What axe-core finds that is serious: rule, and the elements that break it."""
        self.run(axe_script())
        found = self.run("return axe.run(document, {resultTypes: ['violations']})")
        return [(one["id"], [node["html"] + " " + node["failureSummary"] for node in one["nodes"]])
                for one in found["violations"] if one["impact"] in ("serious", "critical")], len(found["passes"])


def axe_script():
    """axe-core, as the wheel that is named in requirements-alone.txt brings it."""
    place = importlib.util.find_spec("axe_playwright_python").submodule_search_locations[0]
    return (pathlib.Path(place) / "axe.min.js").read_text()
