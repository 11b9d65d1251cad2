"""Bytes of a text file to text: UTF-8, UTF-16 and UTF-32 with or without a mark, and what programs wrote before them."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from charset_normalizer import from_bytes

from tandemtune.errors import DataError

_MARKS = (  # the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WESTERN = "cp1252"
_LEGACY = [WESTERN, *["mac_roman", "cp850", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256"]]
_LEGACY += ["gb18030", "big5", "cp932", "euc_jp", "cp949"]
_SAMPLE = 50_000  # bytes of lines with letters beyond ASCII: more of them decide nothing new
_CLOSE, _LIKELIER = 0.04, 0.1  # differences in disorder, and in likeness to a language, that do not, and do, decide
_OTHER_FILES = (
    (b"version https://git-lfs", "a pointer of git-lfs, not the file itself: fetch it with `git lfs pull`"),
    (b"PK\x03\x04", "an Excel workbook or a zip file, not text: save the sheet as CSV UTF-8, or unpack it"),
    (b"\x1f\x8b", "a gzip file, not text: unpack it"),
    (b"PAR1", "a Parquet file: give it the ending .parquet"),
)


def decoded(data: bytes, name: str) -> tuple[str, str]:
    """Decode a text file.

    UTF-8 is what a file has to break before anything else is considered. A file that is UTF-8 for the most part is
    damaged, not written in another encoding. Of the older encodings cp1252 (which holds Latin-1) is taken unless
    another one makes better sense of the letters.

    Args:
        data: the file.
        name: of the file, for messages.

    Returns:
        The text without a mark, and the encoding by Python's name: "utf-8", "utf-8-sig", "utf-16", "cp1252" ...

    Raises:
        DataError: it is no text, it is damaged, or its encoding cannot be told; names line and byte.
    """
    for start, what in _OTHER_FILES:
        if data.startswith(start):
            raise DataError(f"{name}: {what}")
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _strictly(data, encoding, name), encoding
    if b"\0" in data:
        encoding = _unmarked_utf16(data, name)
        return _strictly(data, encoding, name), encoding
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        if _damaged_utf8(data, error):
            raise DataError(_not_utf8(data, error.start, name) + " where the rest is: write the file again") from None
        encoding = _legacy(data, name, error.start)
        return data.decode(encoding), encoding


def _strictly(data: bytes, encoding: str, name: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding == "utf-8-sig":  # the codec counts from behind the mark, which `error.object` no longer holds
            at = error.start + len(data) - len(error.object)
            raise DataError(
                _not_utf8(data, at, name) + " although the file is marked as UTF-8: write it again"
            ) from None
        raise DataError(
            f"{name}, byte {error.start + 1}: not valid {encoding.upper()} ({error.reason}): save the file as UTF-8"
        ) from None
    if "\0" in text:
        raise DataError(
            f"{name}, line {text.count(chr(10), 0, text.index(chr(0))) + 1}: a NUL character, expected text"
        )
    return text


def _unmarked_utf16(data: bytes, name: str) -> str:
    """The byte order of UTF-16 without a mark: its ASCII characters have a NUL byte, nearly all on the same side."""
    first, second = data[0::2], data[1::2]
    order, high = ("utf-16-be", first) if first.count(0) > second.count(0) else ("utf-16-le", second)
    if len(data) % 2 == 0 and _decodes(data, order) and "\0" not in data.decode(order):
        # Of Latin, Greek, Cyrillic and others the bytes on that side are small; of Chinese the rest is no UTF-8.
        small = sum(byte < 0x20 for byte in high)
        if 2 * small > len(high) or not _decodes(data.replace(b"\0", b""), "utf-8"):
            return order
    raise DataError(
        f"{name}, {_position(data, data.index(0))}: a NUL byte, expected text: "
        "the file is damaged or no text file; save it as UTF-8 text"
    )


def _damaged_utf8(data: bytes, error: UnicodeDecodeError) -> bool:
    """Whether a file that is not UTF-8 was meant to be: it ends within a character, or most others are whole."""
    if error.reason == "unexpected end of data" and len(data) - error.start > 1:
        return True
    runs = [_decodes(run, "utf-8") for run in re.findall(rb"[\x80-\xff]+", data)]
    if 3 * sum(runs) > len(runs) - sum(runs):
        return True
    beyond = [c for c in data.decode("utf-8", "surrogateescape") if c > "\x7f"]
    broken = sum("\udc80" <= c <= "\udcff" for c in beyond)
    return len(beyond) > 2 * broken


def _legacy(data: bytes, name: str, at: int) -> str:
    """The most sensible of the older encodings; cp1252 where another makes hardly more sense."""
    found = [match for match in _readings(data) if _decodes(data, match[0])]
    western = [match for match in found if match[0] == WESTERN]
    found.sort(key=lambda match: (match[1], -match[2]))
    if western and western[0][1] - found[0][1] <= _CLOSE:
        return WESTERN
    rivals = [m for m in found[1:] if m[1] - found[0][1] <= _CLOSE and found[0][2] - m[2] < _LIKELIER]
    if found and not rivals:
        return found[0][0]
    which = (
        f"could be {' or '.join(m[0] for m in (found[0], *rivals))}" if found else "is no encoding that is known here"
    )
    raise DataError(_not_utf8(data, at, name) + f", and it {which}: save the file as UTF-8")


def _readings(data: bytes) -> Iterator[tuple[str, float, float]]:
    """Encodings that make sense, each with the disorder of its letters and their likeness to a language (0 to 1)."""
    lines = [line for line in re.split(rb"[\r\n]+", data) if not line.isascii()]
    sample = b"\n".join(lines)[:_SAMPLE]
    if len(sample) == _SAMPLE:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    for match in from_bytes(sample, cp_isolation=_LEGACY, preemptive_behaviour=False, steps=20):
        same = [WESTERN] if WESTERN in match.could_be_from_charset else []
        yield (same or [match.encoding])[0], match.chaos, match.coherence


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(data: bytes, at: int, name: str) -> str:
    return f"{name}, {_position(data, at)}: byte 0x{data[at]:02x} is not valid UTF-8"


def _position(data: bytes, at: int) -> str:
    line, start = data.count(b"\n", 0, at) + 1, data.rfind(b"\n", 0, at) + 1
    return f"line {line}, byte {at - start + 1}"
