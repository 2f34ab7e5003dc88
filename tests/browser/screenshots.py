"""Pictures of report pages for the documentation.

    python tests/browser/screenshots.py docs/images NAME=report.html ...

writes NAME.png (1280 wide) and NAME-phone.png (390 wide, dark) of each page, in 256 colours.
"""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

from browser import chromium, show


def picture(driver: Chrome, page: Path, width: int, height: int, scheme: str) -> bytes:
    """The top `height` pixels of the page, as a PNG of few colours."""
    scheme_only = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_only)
    show(driver, page, width, height)
    whole = driver.execute_script("return Math.ceil(document.body.getBoundingClientRect().height)")
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    image = (
        Image.open(io.BytesIO(base64.b64decode(shot["data"])))
        .convert("RGB")
        .crop((0, 0, width, min(height, whole)))
        .quantize(256, Image.Quantize.MAXCOVERAGE)
    )
    packed = io.BytesIO()
    image.save(packed, "PNG", optimize=True)
    return packed.getvalue()


def main(folder: Path, pages: dict[str, Path], height: int = 3200) -> None:
    with chromium() as driver:
        for name, page in pages.items():
            (folder / f"{name}.png").write_bytes(picture(driver, page, 1280, height, "light"))
            (folder / f"{name}-phone.png").write_bytes(picture(driver, page, 390, height, "dark"))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        {name: Path(path).resolve(strict=True) for name, path in (word.split("=", 1) for word in sys.argv[2:])},
    )
