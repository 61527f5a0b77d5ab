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
_IPV4 = rf"{_BYTE}(\.{_BYTE}){{3}}"
# RFC 4291, without zones. Of addresses that end as one of version 4, those that are mapped or written out.
_GROUP = "[0-9A-Fa-f]{1,4}"
_COMPRESSED = "|".join(
    (f"{_GROUP}(:{_GROUP}){{{before - 1}}}" if before else "")
    + (f"::({_GROUP}(:{_GROUP}){{0,{6 - before}}})?" if before < 7 else "::")
    for before in range(8)
)
_IPV6 = f"({_GROUP}(:{_GROUP}){{7}}|{_COMPRESSED}|({_GROUP}:){{6}}{_IPV4}|::([Ff]{{4}}:)?{_IPV4})"

# RFC 1123, up to 6 labels of up to 40 characters, which is within all limits, without the hyphens of punycode.
_HOST_LABEL = "[A-Za-z0-9](-?[A-Za-z0-9]){0,19}"
_HOSTNAME = rf"{_HOST_LABEL}(\.{_HOST_LABEL}){{0,5}}"


def _uri_parts(further: str) -> tuple[str, str]:
    """A URI and a reference (RFC 3986; with ``further`` characters RFC 3987), without
    addresses in brackets."""
    path_character = f"([A-Za-z0-9._~!$&'()*+,;=:@{further}-]|%[0-9A-Fa-f]{{2}})"
    no_colon = f"([A-Za-z0-9._~!$&'()*+,;=@{further}-]|%[0-9A-Fa-f]{{2}})"
    host = f"([A-Za-z0-9._~!$&'()*+,;={further}-]|%[0-9A-Fa-f]{{2}})*"
    user = f"([A-Za-z0-9._~!$&'()*+,;=:{further}-]|%[0-9A-Fa-f]{{2}})*@"
    after = rf"(\?({path_character}|[/?])*)?(#({path_character}|[/?])*)?"
    rooted = f"//({user})?{host}(:[0-9]*)?(/{path_character}*)*|/({path_character}+(/{path_character}*)*)?"
    uri = f"[A-Za-z][A-Za-z0-9+.-]*:({rooted}|({path_character}+(/{path_character}*)*)?){after}"
    reference = f"({uri}|({rooted}|({no_colon}+(/{path_character}*)*)?){after})"
    return uri, reference


_URI, _URI_REFERENCE = _uri_parts("")
# The ucschar of the first plane.
_IRI, _IRI_REFERENCE = _uri_parts(r"\u00A0-\uD7FF\uF900-\uFDCF\uFDF0-\uFFEF")
_VARIABLE = r"[A-Za-z0-9_]+(:[1-9][0-9]{0,3}|\*)?"
_URI_TEMPLATE = rf"([A-Za-z0-9._~&+,;=:@/?#-]|\{{[+#./;?&]?{_VARIABLE}(,{_VARIABLE})*\}})*"

# RFC 3339, appendix A.
_DIGITS = "[0-9]{1,9}"
_DAY_TIME = f"T({_DIGITS}H({_DIGITS}M({_DIGITS}S)?)?|{_DIGITS}M({_DIGITS}S)?|{_DIGITS}S)"
_DAYS = f"({_DIGITS}Y({_DIGITS}M({_DIGITS}D)?)?|{_DIGITS}M({_DIGITS}D)?|{_DIGITS}D)"
_DURATION = f"P({_DIGITS}W|{_DAYS}({_DAY_TIME})?|{_DAY_TIME})"

_JSON_POINTER = "(/([^~/]|~[01])*)*"
_HEX = "[0-9A-Fa-f]"

_PATTERNS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": _DURATION,
    "email": _EMAIL,
    "idn-email": _EMAIL,
    "hostname": _HOSTNAME,
    "idn-hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "iri": _IRI,
    "iri-reference": _IRI_REFERENCE,
    "json-pointer": _JSON_POINTER,
    "relative-json-pointer": f"(0|[1-9][0-9]{{0,8}})(#|{_JSON_POINTER})",
    "uri": _URI,
    "uri-reference": _URI_REFERENCE,
    "uri-template": _URI_TEMPLATE,
    "uuid": "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    **{
        f"uuid{version}": f"{_HEX}{{8}}-{_HEX}{{4}}-{version}{_HEX}{{3}}-[89ABab]{_HEX}{{3}}-{_HEX}{{12}}"
        for version in range(1, 9)
    },
}
NAMES = tuple(sorted(_PATTERNS))


@cache
def expression(name: str) -> Expression:
    """The values of a format, one of ``NAMES``."""
    return regex.parse(_PATTERNS[name])
