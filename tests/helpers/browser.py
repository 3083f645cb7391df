"""Opens a page in a real browser engine, Chromium in QtWebEngine, without a display, and reports its state.

    python tests/helpers/browser.py page.html light out.png 1280 390     (a screenshot for each width:
                                                                         out_1280.png, out_390.png)

This is a separate program, because a browser needs the main thread and should not share a process with other code.
"""

import json
import os
import sys
from pathlib import Path
from typing import ClassVar

page_path, scheme, picture = Path(sys.argv[1]).resolve(), sys.argv[2], Path(sys.argv[3])
widths = [int(width) for width in sys.argv[4:]]
os.environ["QT_QPA_PLATFORM"] = "offscreen"
os.environ["QTWEBENGINE_DISABLE_SANDBOX"] = "1"  # root may not use the sandbox; the page is our own
colours = {"dark": 0, "light": 1}[scheme]  # blink's names for prefers-color-scheme
os.environ["QTWEBENGINE_CHROMIUM_FLAGS"] = f"--disable-gpu --blink-settings=preferredColorScheme={colours}"

from PySide6.QtCore import QEventLoop, QTimer, QUrl  # noqa: E402
from PySide6.QtGui import QImage  # noqa: E402
from PySide6.QtWebEngineCore import QWebEnginePage  # noqa: E402
from PySide6.QtWebEngineWidgets import QWebEngineView  # noqa: E402
from PySide6.QtWidgets import QApplication  # noqa: E402

LOOK = """JSON.stringify({
  viewport: innerWidth,
  width: document.documentElement.scrollWidth,
  height: document.documentElement.scrollHeight,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  images: [...document.images].map(i => ({natural: i.naturalWidth, shown: i.clientWidth, alt: i.alt, source: i.currentSrc})),
  fetched: performance.getEntriesByType("resource").map(e => e.name).filter(name => !name.startsWith("data:")),
  cut: [...document.querySelectorAll("body *")].filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .map(e => `${e.tagName} ${e.className}: ${e.innerText.slice(0, 40)}`),
  rows: [...document.querySelectorAll("tr")].map(row => [...row.children].map(cell => cell.innerText)),
})"""


class Page(QWebEnginePage):
    """Keeps the console messages of the page."""

    said: ClassVar[list[str]] = []

    def javaScriptConsoleMessage(self, level, message, line, source) -> None:
        self.said.append(message)


def settle(milliseconds: int) -> None:
    loop = QEventLoop()
    QTimer.singleShot(milliseconds, loop.quit)
    loop.exec()


def evaluate(page: QWebEnginePage, script: str) -> dict:
    loop, found = QEventLoop(), []
    page.runJavaScript(script, lambda value: (found.append(value), loop.quit()))
    QTimer.singleShot(20_000, loop.quit)
    loop.exec()
    return json.loads(found[0])


def photograph(width: int, height: int) -> QImage:
    """Takes a picture of the whole page; waits for its footer, because the engine draws late after a resize."""
    for attempt in range(60):
        view.resize(width, height + attempt % 2)
        settle(250)
        image = view.grab().toImage()
        if len({image.pixel(x, y) for x in range(0, width, 2) for y in range(height - 120, height - 20)}) > 1:
            break
    return image


application = QApplication(sys.argv[:1])
view = QWebEngineView()
page = Page(view)
view.setPage(page)
view.resize(widths[0], 800)
view.show()
loop, loaded = QEventLoop(), []
page.loadFinished.connect(lambda ok: (loaded.append(ok), loop.quit()))
QTimer.singleShot(60_000, loop.quit)
page.load(QUrl.fromLocalFile(str(page_path)))
loop.exec()
if not loaded or not loaded[0]:
    sys.exit(f"{page_path} did not load")
seen = {}
for width in widths:
    view.resize(width, 800)
    settle(400)
    opened = evaluate(page, f"document.querySelectorAll('details').forEach(d => d.open = true), {LOOK}")
    evaluate(page, "document.querySelectorAll('details').forEach(d => d.open = false), '{}'")
    seen[width] = evaluate(page, LOOK) | {"opened": opened}
    photograph(width, min(seen[width]["height"], 16_000)).save(str(picture.with_name(f"{picture.stem}_{width}.png")))
print(json.dumps({"console": Page.said, "widths": seen}))
sys.stdout.flush()
os._exit(0)  # Qt's own way out waits for helper processes
