"""Lines of a text table to float32, compiled by numba: the inner loops of `lib.cohort.gct`.

Cells of other samples are stepped over 32 bytes at a time. A number becomes what `float32(float(text))`
gives: nearly all cells are at most 15 digits with a point, and one correctly rounded division by a power of
ten makes the double (Clinger 1990). Longer ones and exponents go through a double that may be off by an ulp
or two, kept only if that cannot change the float32; what is left goes back to Python.
"""

import numba
import numpy as np

NEWLINE, RETURN, POINT, QUOTE, PLUS, MINUS, ZERO = 10, 13, 46, 34, 43, 45, 48
CHUNK = 32  # bytes stepped over at once
N_POWERS = 41
POWERS = np.array([float(f"1e{i}") for i in range(N_POWERS)])  # exact up to 1e22, then rounded
ONE, TWO = np.uint64(1), np.uint64(2)


@numba.njit(cache=True, nogil=True, inline="always")
def _ends(c, delimiter):
    return (c == delimiter) | (c == NEWLINE) | (c == RETURN)


@numba.njit(cache=True, nogil=True)
def _skip_fields(text, position, n, delimiter):
    """Step over `n` fields, or fewer if the line ends; returns the new position and the fields stepped over.

    The position is behind the last delimiter, or on the newline.
    """
    chunk, n_left = np.uint64(CHUNK), n
    at_start = True
    while n_left > 0:
        while position + chunk <= len(text):
            n_here, stops = np.uint8(0), np.uint8(0)
            for j in range(CHUNK):  # LLVM makes vector instructions of it
                c = text[position + np.uint64(j)]
                n_here = np.uint8(n_here + np.uint8(c == delimiter))
                stops = np.uint8(stops | np.uint8((c == NEWLINE) | (c == QUOTE)))
            if stops or n_here >= n_left:
                break
            n_left -= np.int64(n_here)
            position += chunk
            at_start = text[position - ONE] == delimiter
        if at_start and text[position] == QUOTE:
            position += ONE
            while text[position] != QUOTE and text[position] != NEWLINE:
                position += ONE
        while text[position] != delimiter and text[position] != NEWLINE:
            position += ONE
        if text[position] == NEWLINE:
            return position, n - n_left
        position += ONE
        n_left -= 1
        at_start = True
    return position, n


@numba.njit(cache=True, nogil=True)
def _long_number(text, position, delimiter):
    """A number of up to 18 digits (leading zeros apart), with or without an exponent.

    Returns whether it is one and its float32 is beyond doubt, the value, and the position reached.
    """
    digits, n_digits, n_significant, n_after, after = 0, 0, 0, 0, False
    c = text[position]
    while 48 <= c <= 57 or (c == POINT and not after):
        if c == POINT:
            after = True
        else:
            digits = digits * 10 + np.int64(c - 48)
            n_digits += 1
            n_after += after
            n_significant += digits != 0
            if n_significant > 18:
                return False, 0.0, position
        position += ONE
        c = text[position]
    exponent, negative, n_exponent = 0, False, 0
    if c == 101 or c == 69:  # e, E
        position += ONE
        c = text[position]
        if c in (PLUS, MINUS):
            negative = c == MINUS
            position += ONE
            c = text[position]
        while 48 <= c <= 57 and n_exponent < 4:
            exponent = exponent * 10 + np.int64(c - 48)
            n_exponent += 1
            position += ONE
            c = text[position]
        if n_exponent == 0:
            return False, 0.0, position
    exponent = (-exponent if negative else exponent) - n_after
    if n_digits == 0 or not _ends(c, delimiter) or abs(exponent) >= N_POWERS:
        return False, 0.0, position
    value = np.float64(digits)
    value = value / POWERS[-exponent] if exponent < 0 else value * POWERS[exponent]
    # four roundings by half an ulp (digits, power, quotient, float(text) itself) are less than 1e-15
    sure = np.float32(value * (1 - 1e-15)) == np.float32(value * (1 + 1e-15))
    return sure and value < 3e38, value, position


@numba.njit(cache=True, nogil=True)
def parse_lines(text, delimiter, target, n_skip, values, spans, odd):
    """Parse lines until the text or one of the outputs is used up.

    Parameters
    ----------
    text : uint8; ends with a newline.
    delimiter : its byte.
    target : (columns,) int64; >= 0: column of `values`; -1: not wanted; -2 - k: text span k.
    n_skip : (columns,) int64; how many columns from this one on are not wanted.
    values : (rows, n) float32; filled.
    spans : (rows, 3, 2) int64; filled with the byte offsets of gene, symbol, biotype.
    odd : (m, 4) int64; filled with row, column of `values`, start, stop of cells left to Python.

    Returns
    -------
    rows, bytes used, odd cells, and the number of fields of a ragged line (-1: none).
    """
    n_columns, n_rows, n_odd = len(target), 0, 0
    position, end = np.uint64(0), np.uint64(len(text))  # unsigned: no wrap-around to check, a quarter faster
    while position < end and n_rows < len(values) and n_odd + n_columns <= len(odd):
        c = text[position]
        if c == NEWLINE or (c == RETURN and text[position + ONE] == NEWLINE):  # an empty line
            position += ONE
            continue
        column = 0
        while True:
            if column < n_columns and n_skip[column] > 1:  # the last of them is left to the loop
                position, n_passed = _skip_fields(text, position, n_skip[column] - 1, delimiter)
                column += n_passed
            start = position
            where = target[column] if column < n_columns else -1
            c = text[position]
            if where >= 0 and c == ZERO and text[position + ONE] == delimiter:  # four cells in ten
                values[n_rows, where] = 0
                column += 1
                position += TWO
                continue
            if where >= 0:
                digits, n_after = 0, np.uint64(0)
                while 48 <= c <= 57:
                    digits = digits * 10 + (c - 48)
                    position += ONE
                    c = text[position]
                n_digits = position - start
                if c == POINT:
                    position += ONE
                    point = position
                    c = text[position]
                    while 48 <= c <= 57:
                        digits = digits * 10 + (c - 48)
                        position += ONE
                        c = text[position]
                    n_after = position - point
                    n_digits += n_after
                if 0 < n_digits <= 15 and _ends(c, delimiter):
                    values[n_rows, where] = digits / POWERS[n_after]
                    if c == delimiter:
                        column += 1
                        position += ONE
                        continue
                else:
                    is_sure, value, position = _long_number(text, start, delimiter)
                    values[n_rows, where] = value
                    if not is_sure:
                        odd[n_odd, 0], odd[n_odd, 1], odd[n_odd, 2] = n_rows, where, start
                        n_odd += 1
                        where = -9
            elif c == QUOTE:
                position += ONE
                while text[position] != QUOTE and text[position] != NEWLINE:
                    position += ONE
            while text[position] != delimiter and text[position] != NEWLINE:
                position += ONE
            stop = position - ONE if position > start and text[position - ONE] == RETURN else position
            if where == -9:
                odd[n_odd - 1, 3] = stop
            elif where <= -2:
                spans[n_rows, -2 - where, 0], spans[n_rows, -2 - where, 1] = start, stop
            column += 1
            position += ONE
            if text[position - ONE] == NEWLINE:
                break
        if column != n_columns:
            return n_rows, position, n_odd, column
        n_rows += 1
    return n_rows, position, n_odd, -1
