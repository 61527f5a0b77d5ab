"""The string formats of JSON schema as expressions over the string's value."""

from functools import cache

from redraft.constrain.expression import Expression
from redraft.constrain.language import regex

# RFC 3339 with the calendar: every month has its own days, and 29 February its leap years. Python has no year 0.
_YEAR = "([0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_MULTIPLE_OF_4 = "(0[48]|[2468][048]|[13579][26])"
_LEAP_YEAR = f"([0-9]{{2}}{_MULTIPLE_OF_4}|{_MULTIPLE_OF_4}00)"
_DATE = (
    f"({_YEAR}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP_YEAR}-02-29)"
)
# No leap seconds: they exist on a few days only.
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"

# RFC 5321 without quoted names and address literals. Its length limits are left to maxLength.
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9](-*[A-Za-z0-9])*"
_EMAIL = rf"{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})+"

_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

# RFC 3986 without addresses in brackets.
_PATH_CHARACTER = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_HOST = "([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*"
_USER = "([A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@"
_URI = (
    f"[A-Za-z][A-Za-z0-9+.-]*:(//({_USER})?{_HOST}(:[0-9]*)?(/{_PATH_CHARACTER}*)*"
    f"|/({_PATH_CHARACTER}+(/{_PATH_CHARACTER}*)*)?|({_PATH_CHARACTER}+(/{_PATH_CHARACTER}*)*)?)"
    rf"(\?({_PATH_CHARACTER}|[/?])*)?(#({_PATH_CHARACTER}|[/?])*)?"
)

_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "email": _EMAIL,
    "uuid": "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "uri": _URI,
}
NAMES = tuple(sorted(_PATTERNS))


@cache
def expression(name: str) -> Expression:
    """The values of a format, one of ``NAMES``."""
    return regex.parse(_PATTERNS[name])
