"""Films: frames as .gif or .webp by Pillow, or as .mp4 by ffmpeg where it is there."""

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dcgan.common.console import UserError
from dcgan.common.files import DAMAGE, write_whole

KINDS = (".gif", ".webp", ".mp4")

# Of a history: pixels of its width at most, frames at most, and how many the last lasts
WIDE, FRAMES, LAST = 480, 40, 8


def check(path):
    """Raise UserError if a film cannot be written under this name."""
    kind = Path(path).suffix.lower()
    if kind not in KINDS:
        kinds = ", ".join(KINDS)
        raise UserError(f"{path}: a film ends in {kinds}. Try --out film.gif")
    if kind == ".mp4" and not shutil.which("ffmpeg"):
        raise UserError(f"{path} needs ffmpeg, which is not there. Try --out film.gif")


def save(path, frames, seconds):
    """Write frames, RGB images of one size, as a film that is shown again and again.

    frames: an iterable; seconds: of each. Raises UserError as check() and write_whole()
    do.
    """
    check(path)
    frames, kind = iter(frames), Path(path).suffix.lower()
    with write_whole(path) as part:
        if kind == ".mp4":
            _save_mp4(part, frames, seconds)
            return
        first = next(frames)
        options = {"quality": 80, "method": 4} if kind == ".webp" else {}
        first.save(
            part,
            format=kind[1:].upper(),
            save_all=True,
            append_images=frames,
            duration=round(lasting(path, seconds) * 1000),
            loop=0,
            **options,
        )


def lasting(path, seconds):
    """Return the seconds that a frame of a film can last, as near as it can be."""
    if Path(path).suffix.lower() == ".gif":  # hundredths, of which browsers take no one
        return max(2, round(seconds * 100)) / 100
    return seconds


def _save_mp4(part, frames, seconds):
    """Pipe the frames to ffmpeg, the sides made even, as its encoder wants them."""
    first = next(frames)
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{first.width}x{first.height}", "-r", f"{1 / seconds:.6f}"]
    command += ["-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
    command += ["-pix_fmt", "yuv420p", "-f", "mp4", str(part)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:
        for frame in itertools.chain([first], frames):
            ffmpeg.stdin.write(frame.tobytes())
    if ffmpeg.returncode:
        raise UserError(f"ffmpeg failed, with exit code {ffmpeg.returncode}.")


def history(sheets):
    """Return sheets {epoch: path}, one at least, as frames with the epoch under each.

    Of many some, the first and the last among them. Sheets may have different sizes,
    where a run went on from another. Raises UserError for one that cannot be read.
    """
    epochs = [*sheets]
    count = min(len(epochs), FRAMES)
    places = np.linspace(0, len(epochs) - 1, count).round().astype(int)
    shown = {epochs[place]: _smaller(sheets[epochs[place]]) for place in places}
    width, height = np.max([sheet.size for sheet in shown.values()], axis=0).tolist()
    frames = [_with_epoch(epoch, shown[epoch], width, height) for epoch in shown]
    return frames + frames[-1:] * (LAST - 1)


def _smaller(path):
    try:
        with Image.open(path) as file:
            sheet = file.convert("RGB")
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UserError(f"Cannot read {path}: {error}. Move it away.") from error
    sheet.thumbnail((WIDE, sheet.height), Image.Resampling.LANCZOS)
    return sheet


def _with_epoch(epoch, sheet, width, height):
    frame = Image.new("RGB", (width, height + 22), "white")
    frame.paste(sheet)
    words, font = f"epoch {epoch}", ImageFont.load_default(15)
    ImageDraw.Draw(frame).text((2, height + 2), words, "black", font)
    return frame
