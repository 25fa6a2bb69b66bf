"""Writes src/memory/embed/unicode_tables.rs.

Asks the reference tokenizer (PyPI package `tokenizers`) about every code point,
so that the tables hold exactly the Unicode version that it uses.

    venv/bin/python model/unicode_tables.py > src/memory/embed/unicode_tables.rs
"""

from collections.abc import Callable

from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

LINE_WIDTH = 100

HEAD = """\
//! Code point classes of the BERT tokenizer, as sorted, inclusive ranges.
//!
//! Written by `model/unicode_tables.py`; do not edit. ASCII is left out: the tokenizer has a faster
//! table for it. The Unicode version is that of the reference tokenizer (8.0): later code points
//! occur in no vocabulary of its time, so classing them would change nothing but the number of
//! `[UNK]` pieces.
"""


def ranges(is_member: Callable[[str], bool]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for code in range(0x80, 0x110000):
        # Surrogates are no characters.
        if 0xD800 <= code <= 0xDFFF or not is_member(chr(code)):
            continue
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    return found


def write(name: str, doc: str, is_member: Callable[[str], bool]) -> None:
    members = ranges(is_member)
    print(f"\n/// {doc}")
    print("#[rustfmt::skip]")
    print(f"pub(super) static {name}: [(u32, u32); {len(members)}] = [")
    line = "   "
    for first, last in members:
        cell = f" (0x{first:04X}, 0x{last:04X}),"
        if len(line) + len(cell) > LINE_WIDTH:
            print(line)
            line = "   "
        line += cell
    print(line)
    print("];")


def main() -> None:
    options = {"handle_chinese_chars": False, "lowercase": False}
    clean = BertNormalizer(clean_text=True, strip_accents=False, **options)
    strip = BertNormalizer(clean_text=False, strip_accents=True, **options)
    split = BertPreTokenizer()
    print(HEAD, end="")
    write(
        "REMOVED",
        "Control, format and private-use characters and U+FFFD: dropped from the text.",
        lambda c: clean.normalize_str(f"a{c}a") == "aa",
    )
    write(
        "NONSPACING_MARKS",
        "Nonspacing marks (general category Mn): dropped after canonical decomposition.",
        lambda c: strip.normalize_str(f"a{c}a") == "aa",
    )
    write(
        "PUNCTUATION",
        "Punctuation (general category P): each character is a word of its own.",
        lambda c: len(split.pre_tokenize_str(f"a{c}a")) == 3,
    )


if __name__ == "__main__":
    main()
