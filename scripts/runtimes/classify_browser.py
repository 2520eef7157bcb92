"""Classify pictures with an exported file in a browser: ``python classify_browser.py model.onnx picture.png …``.

Serves classify_browser.html on this machine, opens it in headless Chromium, and prints what the page answers: one JSON object a
picture. Needs Chromium, and the npm package onnxruntime-web (its folder in ORT_WEB_DIR, or in node_modules here or above).
"""

import http.server
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from export.web.page import find_runtime

HERE = Path(__file__).resolve().parent
WEB = HERE.parent.parent / "export" / "web"

#: Longest wait for the next hundred answers, seconds.
PATIENCE = 300

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    return found or sys.exit("no Chromium here: apt-get install chromium")


def make_handler(files: dict[str, Path | bytes], answers: "queue.Queue[list]") -> type:
    """A server of these files and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            if name not in files:
                self.send_error(404)
                return
            data = files[name]
            body = data.read_bytes() if isinstance(data, Path) else data
            kinds = {".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
            self.send_response(200)
            self.send_header("Content-Type", kinds.get(Path(name).suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


def main() -> None:
    model, pictures = Path(sys.argv[1]), sys.argv[2:]
    runtime = find_runtime()
    numbered = {f"{i}{Path(picture).suffix}": picture for i, picture in enumerate(pictures)}
    files: dict[str, Path | bytes] = {
        "index.html": HERE / "classify_browser.html",
        "model.onnx": model,
        "pictures.json": json.dumps(list(numbered)).encode(),
        **{path.name: path for path in [*WEB.glob("*.mjs"), *runtime.glob("ort*wasm*")]},
        **{f"pictures/{name}": Path(picture) for name, picture in numbered.items()},
    }
    answers: queue.Queue[list] = queue.Queue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make_handler(files, answers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as profile:
        url = f"http://127.0.0.1:{server.server_port}/index.html"
        command = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while True:
                for line in answers.get(timeout=PATIENCE):
                    if "error" in line:
                        sys.exit(line["error"])
                    if "done" in line:
                        return
                    if "file" in line:
                        line["file"] = numbered[line["file"]]
                    print(json.dumps(line, ensure_ascii=False))
        except queue.Empty:
            sys.exit(f"the browser has not answered for {PATIENCE} s")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()


if __name__ == "__main__":
    main()
