"""The QR codes of the account page are read by a real scanner, zbar, whatever they say and when they are damaged."""

import random
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUIET = 4  # modules around a symbol, ISO/IEC 18004 section 5.3.8
SCALE = 3  # pixels of a module
ENCODE = """
local lib = dofile("roles/mfa/files/modules/mfa_qr.lib.lua");
local matrix = lib.encode(io.read("a"));
for y = 0, matrix and matrix.size - 1 or -1 do
    print(table.concat(matrix[y], "", 0, matrix.size - 1));
end
"""
# Octets that just fit into versions 1, 6, 7, 9, 10, 14, 22 and 40 at level M, and one more.
LENGTHS = [
    length + more for length in (14, 106, 122, 180, 213, 362, 779, 2331) for more in (0, 1) if length + more < 2332
]
CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/?&=%-._~@ "


def encode(text):
    """The symbol as a list of rows of 0 and 1."""
    run = subprocess.run(["lua5.4", "-e", ENCODE], input=text, capture_output=True, text=True, check=True, cwd=ROOT)
    return [list(map(int, row)) for row in run.stdout.split()]


def read(symbol, picture):
    """What zbar reads in a picture of the symbol."""
    side = len(symbol) + 2 * QUIET
    rows = [[0] * side] * QUIET + [[0] * QUIET + row + [0] * QUIET for row in symbol] + [[0] * side] * QUIET
    pixels = [" ".join(str(module) for module in row for _ in range(SCALE)) for row in rows for _ in range(SCALE)]
    picture.write_text(f"P1\n{side * SCALE} {side * SCALE}\n" + "\n".join(pixels) + "\n")
    command = ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", str(picture)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.removesuffix("\n")


@pytest.mark.parametrize("length", LENGTHS)
def test_a_scanner_reads_what_was_written(length, tmp_path):
    text = "".join(random.Random(length).choices(CHARACTERS, k=length))
    assert read(encode(text), tmp_path / "qr.pbm") == text


def test_many_texts_of_the_usual_length_are_read(tmp_path):
    randomness = random.Random(5222)
    for _ in range(20):
        text = "".join(randomness.choices(CHARACTERS, k=randomness.randrange(20, 200)))
        assert read(encode(text), tmp_path / "qr.pbm") == text


def test_a_damaged_code_is_read_by_its_error_correction(tmp_path):
    text = "otpauth://totp/team.example:alice%40team.example?secret=JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    symbol = encode(text)
    for y in range(12, 18):
        for x in range(14, 20):
            symbol[y][x] ^= 1
    assert read(symbol, tmp_path / "qr.pbm") == text


def test_a_text_that_is_too_long_is_refused():
    assert encode("x" * 2332) == []
