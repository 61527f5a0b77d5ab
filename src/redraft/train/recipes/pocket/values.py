"""Values of many kinds as people write them, and what they mean to a program: the date, the number, the time of day.

All that one person writes is written in one ``Hand``: the same order of day and month, one currency, one clock.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from random import Random
from typing import Any

from redraft.train.recipes.pocket.words import any_of, held_out, pool, words

MONTHS = words("month")
WEEKDAYS = words("weekday")
NUMBERS = words("number")
"""From zero to twelve."""
_WORDS = (
    *("animal", "city", "colour", "country", "dish", "drink", "first_name", "garment", "instrument", "job", "language"),
    *("material", "medicine", "plant", "sport", "subject", "surname", "tool", "vehicle", "venue"),
)
POOLS = (*_WORDS, "company", "error", "foreign_street", "product", "room", "school", "street_name", "title")
"""The files of words of which training sees four in five."""


@cache
def held_out_words() -> re.Pattern[str]:
    """Any of the words that training never sees."""
    return any_of(tuple(word for name in POOLS for word in pool(name, True)))


@dataclass(frozen=True)
class Value:
    """A value in a text."""

    text: str
    meaning: Any = None
    """The number, or the date or time in ISO 8601, where the text alone tells it."""
    unit: str = ""
    """The unit that a number counts; of money the currency's code."""


@dataclass
class Hand:
    """One person's way to write values, and the day around which it happens."""

    random: Random
    held: bool
    """True if names and ways of writing are those that training never sees."""
    day: date = field(init=False)
    minute: int = field(init=False)
    """The minutes of the day of the time that was written last."""
    chosen: dict[str, Any] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.day = date(2018, 1, 1) + timedelta(days=self.random.randrange(3650))
        self.minute = self.random.randrange(6 * 12, 18 * 12) * 5

    def form(self, kind: str, forms: dict[str, Any]) -> Any:
        """One of the ways to write a kind, mostly the one that was chosen before."""
        if kind not in self.chosen or self.random.random() < 0.08:
            self.chosen[kind] = self.random.choice(_split(kind, forms, self.held))
        return self.chosen[kind]

    def word(self, name: str) -> str:
        """One of the words of a file."""
        return self.random.choice(pool(name, self.held))

    def next_day(self) -> date:
        """A day some time after the last one, now and then before it."""
        step = int(self.random.expovariate(0.06)) + 1
        self.day += timedelta(days=-step if self.random.random() < 0.15 else step)
        return self.day

    def next_minute(self) -> int:
        """A minute of the day, mostly after the last one."""
        step = self.random.randrange(1, 40) * (5 if self.random.random() < 0.85 else 1)
        self.minute = (self.minute + (-step if self.random.random() < 0.15 else step)) % 1440
        return self.minute

    def digits(self, count: int) -> str:
        return "".join(self.random.choice("0123456789") for _ in range(count))

    def letters(self, count: int) -> str:
        return "".join(self.random.choice("ABCDEFGHJKLMNPRSTUVWXYZ") for _ in range(count))


Draw = Callable[[Hand], Value]


def draw(kind: str, hand: Hand, range: tuple[int, int] | None = None) -> Value:
    """Draw a value of one of ``KINDS``; ``range`` is that of an integer or a decimal."""
    if kind == "integer":
        whole = hand.random.randint(*(range or (1, 60)))
        return Value(str(whole), whole)
    if kind == "decimal":
        low, high = range or (1, 100)
        places = hand.random.choice((1, 1, 2))
        number = round(hand.random.uniform(low, high), places)
        return Value(f"{number:.{places}f}", number)
    return _KINDS[kind](hand)


def _person(hand: Hand) -> Value:
    first, last, chance = hand.word("first_name"), hand.word("surname"), hand.random.random()
    if chance < 0.08:
        return Value(f"{first} {hand.letters(1)}. {last}")
    if chance < 0.11:
        return Value(f"{hand.random.choice(('Dr', 'Prof.'))} {first} {last}")
    return Value(f"{first[0]}. {last}" if chance < 0.15 else f"{first} {last}")


def _ascii(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isascii() and letter.isalnum())


def _handle(hand: Hand) -> Value:
    first, last = _ascii(hand.word("first_name")), _ascii(hand.word("surname"))
    animal = _ascii(hand.word("animal"))
    names = (f"{first}_{last}", f"{first}{last[0]}", f"{first[0]}{last}", f"{first}.{animal}", f"{animal}{first}")
    name = hand.random.choice(names) + hand.random.choice(("", "", hand.digits(2)))
    return Value(hand.form("handle", {"at": "@{}", "bare": "{}", "at again": "@{}", "mark": "~{}"}).format(name))


def _domain(hand: Hand) -> str:
    stem = _ascii(hand.word("company"))
    ending = hand.random.choice((".com", ".com", ".org", ".net", ".co.uk", ".de", ".io", ".eu", ".ie", ".ca"))
    return hand.random.choice((stem, stem, f"{stem}-{_ascii(hand.word('animal'))}", f"my{stem}")) + ending


def _email(hand: Hand) -> Value:
    first, last = _ascii(hand.word("first_name")), _ascii(hand.word("surname"))
    office = hand.random.choice(("info", "office", "help", "orders", "booking", "accounts", "hello", "support"))
    names = (f"{first}.{last}", f"{first}.{last}", f"{first[0]}{last}", f"{last}{hand.digits(2)}", first, office)
    free = hand.random.choice(("mailbox.org", "postfach.net", "inbox.com", "freemail.co", "letterbox.net"))
    return Value(f"{hand.random.choice(names)}@{hand.random.choice((_domain(hand), free))}")


def _phone(hand: Hand) -> Value:
    forms = {
        "uk mobile": "07### ######",
        "uk": "01### ######",
        "us": "(###) 555-####",
        "us dashes": "###-555-####",
        "seven": "555-####",
        "german": "0### #######",
        "international": "+## ### ######",
        "international us": "+1 ### 555 ####",
        "french": "06 ## ## ## ##",
        "irish": "08# ### ####",
        "slash": "0###/######",
        "plain": "0#########",
    }
    return Value(_numbered(hand, hand.form("phone", forms)))


def _numbered(hand: Hand, form: str) -> str:
    """A form with digits for # and capital letters for ?."""
    return "".join(hand.digits(1) if c == "#" else hand.letters(1) if c == "?" else c for c in form)


def _product(hand: Hand) -> Value:
    noun = hand.word("product")
    adjective = f"{hand.random.choice(words('product_adjective'))} " if hand.random.random() < 0.4 else ""
    return Value(noun if adjective.strip() in noun else adjective + noun)


def _number(hand: Hand) -> str:
    number = str(hand.random.randint(1, 160))
    return number + hand.random.choice("ABab") if hand.random.random() < 0.08 else number


def _street(hand: Hand) -> Value:
    if hand.random.random() < 0.2:
        return Value(hand.word("foreign_street"))
    return Value(f"{hand.word('street_name')} {hand.random.choice(words('street_type'))}")


def _address(hand: Hand) -> Value:
    street, number, town = _street(hand).text, _number(hand), hand.word("city")
    abroad = street.split()[-1] not in words("street_type")
    own = f"{street} {number}" if abroad else f"{number} {street}"
    forms = {
        "town": "{own}, {town}",
        "bare": "{own}",
        "flat": "Flat {flat}, {own}, {town}",
        "postcode": "{own}, {town} {letters}{digit} {digit}{letters}",
        "postcode first": "{own}, {code} {town}",
        "unit": "{flat}/{own}, {town}",
    }
    parts = {"flat": hand.random.randint(1, 30), "letters": hand.letters(2), "digit": hand.random.randint(1, 9)}
    return Value(hand.form("address", forms).format(own=own, town=town, code=hand.digits(5), **parts))


def _room(hand: Hand) -> Value:
    if hand.random.random() < 0.55:
        return Value(hand.word("room"))
    number = hand.random.randint(1, 420)
    forms = {
        "named": f"{hand.random.choice(words('numbered_room'))} {number}",
        "letter": f"{hand.letters(1)}{number}",
        "dotted": f"Room {number // 100 + 1}.{number % 100:02}",
        "dash": f"{hand.letters(1)}-{number:03}",
    }
    return Value(hand.random.choice(list(forms.values())))


def _company(hand: Hand) -> Value:
    stem, surname = hand.word("company"), hand.word("surname")
    kind, chance = hand.random.choice(words("company_type")), hand.random.random()
    if chance < 0.15:
        return Value(stem)
    if chance < 0.3:
        return Value(f"{surname} & {hand.word('surname')}" if chance < 0.2 else f"{surname} {kind}")
    return Value(f"{stem} {kind}")


def _title(hand: Hand) -> Value:
    chance = hand.random.random()
    if chance < 0.7:
        return Value(hand.word("title"))
    if chance < 0.8:
        return Value(f"The {hand.word('animal').title()} and the {hand.word('plant').title()}")
    if chance < 0.9:
        return Value(f"The {hand.word('surname')} Papers")
    return Value(f"{hand.word('street_name')} {hand.random.choice(('Nights', 'Blues', 'Stories', 'Diaries'))}")


def _date(hand: Hand) -> Value:
    return _written_date(hand, hand.next_day())


def _written_date(hand: Hand, day: date) -> Value:
    """ISO 8601 is what it means where the year stands there, and day and month cannot be taken for one another."""
    form = hand.form("date", _DATES)
    month = MONTHS[day.month - 1]
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th") if day.day // 10 != 1 else "th"
    text = form.format(
        d=day.day, dd=f"{day.day:02}", m=day.month, mm=f"{day.month:02}", month=month, mon=month[:3], y=day.year,
        yy=f"{day.year % 100:02}", day=WEEKDAYS[day.weekday()], abbr=WEEKDAYS[day.weekday()][:3], th=ending,
    )  # fmt: skip
    clear = "{y}" in form and ("/" not in form or form.startswith("{y}") or day.day > 12 or day.day == day.month)
    return Value(text, day.isoformat() if clear else None)


_DATES = {
    "day month year": "{d} {month} {y}",
    "month day year": "{month} {d}, {y}",
    "day month": "{d} {month}",
    "month day": "{month} {d}",
    "day th month": "{d}{th} {month}",
    "month day th": "{month} {d}{th}",
    "short": "{d} {mon} {y}",
    "short without year": "{d} {mon}",
    "short month day": "{mon} {d}, {y}",
    "dashes from the year": "{y}-{mm}-{dd}",
    "slashes": "{dd}/{mm}/{y}",
    "american": "{mm}/{dd}/{y}",
    "dots": "{dd}.{mm}.{y}",
    "dots short": "{d}.{m}.{y}",
    "weekday": "{day} {d} {month}",
    "weekday comma": "{day}, {month} {d}",
    "weekday year": "{abbr} {d} {mon} {y}",
    "dashes": "{dd}-{mon}-{y}",
    "year slashes": "{y}/{mm}/{dd}",
    "day th month year": "{d}{th} {month} {y}",
}


def _time(hand: Hand) -> Value:
    return _written_time(hand, hand.next_minute())


def _written_time(hand: Hand, minute: int) -> Value:
    if minute in (0, 720) and hand.random.random() < 0.5:
        return Value("noon" if minute else "midnight", "12:00" if minute else "00:00")
    hour, left = divmod(minute, 60)
    twelve, half = (hour - 1) % 12 + 1, "am" if hour < 12 else "pm"
    form = hand.form("time", _TIMES)
    if form == "words":
        if left not in (0, 15, 30, 45):
            return _written_time(hand, minute - left + 30)
        of, named = {0: ("{} o'clock", 0), 15: ("quarter past {}", 0), 30: ("half past {}", 0)}.get(
            left, ("quarter to {}", 1)
        )
        return Value(of.format(NUMBERS[(twelve + named - 1) % 12 + 1]))
    if "{half" in form and left == 0 and hand.random.random() < 0.7:
        form = form.replace(":{left}", "").replace(".{left}", "")
    text = form.format(hour=hour, hh=f"{hour:02}", left=f"{left:02}", twelve=twelve, half=half, half_up=half.upper())
    # Without a word for the half of the day, a small hour may be one of the afternoon.
    clear = "{half" in form or hour > 12 or form.startswith("{hh}")
    return Value(text, f"{hour:02}:{left:02}" if clear else None)


_TIMES = {
    "of 24 hours": "{hh}:{left}",
    "24 short": "{hour}:{left}",
    "am pm": "{twelve}:{left} {half}",
    "close": "{twelve}:{left}{half}",
    "dot": "{twelve}.{left} {half}",
    "capitals": "{twelve}:{left} {half_up}",
    "24 dot": "{hour}.{left}",
    "hours": "{hh}{left} hrs",
    "h": "{hour}h{left}",
    "words": "words",
    "dotted capitals": "{twelve}.{left}{half_up}",
}


def _datetime(hand: Hand) -> Value:
    day, minute = hand.next_day(), hand.next_minute()
    clock, second = f"{minute // 60:02}:{minute % 60:02}", hand.random.randrange(60)
    month = MONTHS[day.month - 1]
    form = hand.form("datetime", _DATETIMES)
    text = form.format(
        iso=day.isoformat(), clock=clock, second=second, d=day.day, dd=f"{day.day:02}", mm=f"{day.month:02}",
        month=month, mon=month[:3], y=day.year, day=WEEKDAYS[day.weekday()],
    )  # fmt: skip
    return Value(text, f"{day.isoformat()} {clock}" if str(day.year) in text else None)


_DATETIMES = {
    "iso": "{iso} {clock}",
    "iso t": "{iso}T{clock}:{second:02}",
    "iso zone": "{iso}T{clock}:{second:02}Z",
    "seconds": "{iso} {clock}:{second:02}",
    "syslog": "{mon} {d} {clock}:{second:02}",
    "words": "{d} {month} {y}, {clock}",
    "at": "{d} {month} at {clock}",
    "dots": "{dd}.{mm}.{y} {clock}",
    "weekday": "{day} {d} {month}, {clock}",
    "american": "{month} {d}, {y} {clock}",
}


def _weekday(hand: Hand) -> Value:
    day = hand.random.choice(WEEKDAYS)
    return Value(day[: hand.form("weekday", {"whole": None, "whole again": None, "first letters": 3})])


def _month(hand: Hand) -> Value:
    return Value(hand.random.choice(MONTHS))


def _year(hand: Hand) -> Value:
    year = hand.random.randint(1998, 2026) if hand.random.random() < 0.8 else hand.random.randint(1900, 1997)
    return Value(str(year), year)


def _measured(kind: str, forms: dict[str, tuple[float, float, int, str, str]]) -> Draw:
    """Forms: lowest, highest, decimal places, how the number and its unit are written, and the unit's name."""

    def drawn(hand: Hand) -> Value:
        low, high, places, written, unit = hand.form(kind, forms)
        number = round(hand.random.uniform(low, high), places)
        text = f"{number:.{places}f}".removesuffix(".0") if places else str(int(number))
        return Value(written.format(text), float(text) if "." in text else int(text), unit)

    return drawn


def _duration(hand: Hand) -> Value:
    if hand.random.random() < 0.12:
        hours, minutes = hand.random.randint(1, 5), hand.random.choice((5, 10, 15, 20, 30, 40, 45, 50))
        return Value(hand.random.choice(("{} h {} min", "{} hours {} minutes", "{}h{}")).format(hours, minutes))
    units = (("minutes", 5, 90), ("minutes", 5, 90), ("hours", 2, 48), ("days", 2, 30), ("weeks", 2, 16),
             ("months", 2, 18), ("years", 2, 20))  # fmt: skip
    unit, low, high = hand.random.choice(units)
    number = hand.random.randint(low, high)
    if number < len(NUMBERS) and hand.random.random() < 0.35:
        return Value(f"{NUMBERS[number]} {unit}", number, unit)
    short = {"minutes": "min", "hours": "hrs"}.get(unit, unit)
    return Value(f"{number} {short if hand.random.random() < 0.3 else unit}", number, unit)


def _money(hand: Hand) -> Value:
    """Amounts from small change to the price of a car, the small ones more often."""
    written, unit, comma = hand.form("money", _MONEY)
    number = 10 ** hand.random.uniform(0.5, 3.9)
    whole = hand.random.random() < (0.7 if number > 100 else 0.25)
    number = int(number / 5 + 1) * 5 if whole else round(number, 2)
    text = f"{number:,}" if whole else f"{number:,.2f}"
    if hand.random.random() < 0.3:
        text = text.replace(",", "")
    if comma:
        text = text.replace(",", " ").replace(".", ",")
    return Value(written.format(text), number, unit)


_MONEY = {
    "dollar sign": ("${}", "USD", False),
    "dollar sign again": ("${}", "USD", False),
    "pounds": ("£{}", "GBP", False),
    "pounds again": ("£{}", "GBP", False),
    "euros": ("€{}", "EUR", False),
    "euros behind": ("{} €", "EUR", True),
    "euros in words": ("{} euros", "EUR", False),
    "EUR": ("EUR {}", "EUR", False),
    "USD": ("USD {}", "USD", False),
    "dollars in words": ("{} dollars", "USD", False),
    "francs": ("CHF {}", "CHF", False),
    "crowns": ("{} kr", "SEK", False),
    "rupees": ("₹{}", "INR", False),
    "singapore": ("S${}", "SGD", False),
    "australia": ("A${}", "AUD", False),
    "pounds in words": ("{} pounds", "GBP", False),
    "rand": ("R{}", "ZAR", False),
    "zloty": ("{} zł", "PLN", True),
    "yen": ("¥{}", "JPY", False),
}


def _percent(hand: Hand) -> Value:
    number = hand.random.randint(1, 100) if hand.random.random() < 0.8 else round(hand.random.uniform(0.2, 99), 1)
    forms = {"%": "{}%", "% again": "{}%", "space": "{} %", "word": "{} percent", "words": "{} per cent"}
    return Value(hand.form("percent", forms).format(number), number, "percent")


def _rating(hand: Hand) -> Value:
    best = hand.random.choice((5, 5, 10))
    number = hand.random.randint(2, best)
    forms = {"slash": "{}/{}", "out of": "{} out of {}", "stars": "{} stars", "of": "{} of {}"}
    form = hand.form("rating", forms)
    return Value(form.format(number, best), number, "stars" if form == "{} stars" else f"out of {best}")


def _score(hand: Hand) -> Value:
    left, right = hand.random.randint(0, 9), hand.random.randint(0, 9)
    forms = {"dash": "{}-{}", "colon": "{}:{}", "to": "{} to {}", "spaced": "{} - {}"}
    return Value(hand.form("score", forms).format(left, right))


def _code(hand: Hand) -> Value:
    forms = {
        "letter dash": "?-####",
        "two letters": "??-####",
        "hash": "#####",
        "hash sign": "№####",
        "ref": "REF-####",
        "inv": "INV-####",
        "year": "20##/###",
        "mixed": "?##?#?",
        "long": "########",
        "letters digits": "??#####",
        "dashes": "##-###-##",
        "case": "C-##-####",
        "three": "???-###",
        "dotted": "##.####",
        "tk": "TK####",
        "slash": "?/####/#",
    }
    text = _numbered(hand, hand.random.choice(_split("code", forms, hand.held)))
    return Value(text.replace("№", "#"))


def _split(kind: str, forms: dict[str, Any], held: bool) -> list[Any]:
    """Forms that training sees, or the others; all where there are none. What is there again is drawn more often."""
    return [forms[name] for name in _names(kind, tuple(forms), held)]


@cache
def _names(kind: str, names: tuple[str, ...], held: bool) -> tuple[str, ...]:
    own = tuple(name for name in names if held_out(f"{kind}: {name.removesuffix(' again')}") == held)
    return own or names


def _url(hand: Hand) -> Value:
    page = hand.random.choice(("", "", "/help", "/news", "/signup", "/menu", "/status", "/docs", "/shop", "/jobs"))
    start = hand.form("url", {"https": "https://", "www": "www.", "bare": "", "https www": "https://www."})
    return Value(f"{start}{_domain(hand)}{page}")


_STEMS = ("report", "budget", "notes", "scan", "photo", "invoice", "draft", "summary", "list", "backup", "settings",
          "contract", "minutes", "letter", "export", "schedule", "readme", "results", "plan", "form", "cv")  # fmt: skip


def _file(hand: Hand) -> Value:
    end = hand.random.choice(("pdf", "docx", "xlsx", "txt", "csv", "jpg", "png", "zip", "log", "json", "mp3", "tar.gz"))
    tail = hand.random.choice(("", "", "_final", "-v2", f"_{hand.digits(2)}", f"-{_ascii(hand.word('animal'))}"))
    return Value(f"{hand.random.choice(_STEMS)}{tail}.{end}")


def _path(hand: Hand) -> Value:
    one, two = _ascii(hand.word("animal")), hand.random.choice(_STEMS)
    forms = {
        "var": f"/var/log/{one}",
        "home": f"/home/{_ascii(hand.word('first_name'))}/{two}",
        "srv": f"/srv/{one}/{two}",
        "windows": f"C:\\{one.title()}\\{two}",
        "share": f"\\\\{one}\\{two}",
        "api": f"/api/v{hand.random.randint(1, 4)}/{two}",
        "opt": f"/opt/{one}",
        "mount": f"/mnt/{one}{hand.digits(1)}",
    }
    return Value(hand.random.choice(_split("path", forms, hand.held)))


def _version(hand: Hand) -> Value:
    a, b, c = hand.random.randint(0, 12), hand.random.randint(0, 20), hand.random.randint(0, 30)
    forms = {"three": "{a}.{b}.{c}", "two": "{a}.{b}", "v": "v{a}.{b}.{c}", "v two": "v{a}.{b}", "rc": "{a}.{b}-rc{d}"}
    forms["calendar"] = "20{y}.{b}"
    return Value(hand.form("version", forms).format(a=a, b=b, c=c, d=c % 5 + 1, y=hand.random.randint(19, 26)))


def _ip(hand: Hand) -> Value:
    first = hand.random.choice(("10", "192.168", "172.16", str(hand.random.randint(11, 223))))
    parts = first.split(".")
    return Value(".".join([*parts, *(str(hand.random.randint(0, 254)) for _ in range(4 - len(parts)))]))


def _plate(hand: Hand) -> Value:
    forms = {"uk": "??## ???", "german": "?-?? ####", "us": "#???###", "dutch": "##-??-##", "french": "??-###-??",
             "old": "??? ###", "italian": "??### ??"}  # fmt: skip
    return Value(_numbered(hand, hand.form("plate", forms)))


def _flight(hand: Hand) -> Value:
    forms = {"spaced": "?? ####", "close": "??###", "short": "?? ##", "dash": "??-###"}
    return Value(_numbered(hand, hand.form("flight", forms)))


def _iban(hand: Hand) -> Value:
    country, rest = hand.random.choice((("DE", 18), ("ES", 20), ("FR", 21), ("AT", 16), ("BE", 12), ("DK", 14),
                                        ("NO", 11), ("FI", 14), ("CH", 17)))  # fmt: skip
    text = country + hand.digits(rest + 2)
    return Value(text if hand.random.random() < 0.4 else " ".join(text[i : i + 4] for i in range(0, len(text), 4)))


def _error(hand: Hand) -> Value:
    if hand.random.random() < 0.6:
        return Value(hand.word("error"))
    forms = {"e": "E##", "f": "F-##", "err": "ERR_####", "http": "error 5##", "hex": "0x####", "word": "fault ##"}
    return Value(_numbered(hand, hand.random.choice(_split("error", forms, hand.held))))


def _size(hand: Hand) -> Value:
    sizes = ("S", "M", "L", "XL", "XXL", "small", "medium", "large", "extra large", str(hand.random.randint(34, 52)))
    return Value(hand.random.choice((*sizes, f"UK {hand.random.randint(4, 20)}", f"EU {hand.random.randint(36, 47)}")))


def _word(name: str) -> Draw:
    return lambda hand: Value(hand.word(name))


_KINDS: dict[str, Draw] = {
    **{kind: _word(kind) for kind in _WORDS},
    "person": _person,
    "handle": _handle,
    "email": _email,
    "phone": _phone,
    "product": _product,
    "title": _title,
    "street": _street,
    "address": _address,
    "room": _room,
    "company": _company,
    "school": lambda hand: Value(f"{hand.word('school')} {hand.random.choice(words('school_type'))}"),
    "team": lambda hand: Value(f"{hand.word('school')} {hand.word('team_name')}"),
    "date": _date,
    "time": _time,
    "weekday": _weekday,
    "month": _month,
    "year": _year,
    "duration": _duration,
    "datetime": _datetime,
    "percent": _percent,
    "money": _money,
    "weight": _measured(
        "weight",
        {
            "kg apart": (0.3, 40, 1, "{} kg", "kg"),
            "kg": (1, 80, 0, "{}kg", "kg"),
            "g": (20, 950, 0, "{} g", "g"),
            "kilos": (1, 60, 0, "{} kilos", "kg"),
            "lbs": (1, 180, 0, "{} lbs", "pounds"),
            "pounds": (2, 60, 0, "{} pounds", "pounds"),
            "oz": (2, 30, 0, "{} oz", "ounces"),
        },
    ),
    "length": _measured(
        "length",
        {
            "m apart": (1, 30, 1, "{} m", "m"),
            "cm": (5, 240, 0, "{} cm", "cm"),
            "cm close": (5, 240, 0, "{}cm", "cm"),
            "mm": (3, 900, 0, "{} mm", "mm"),
            "m apart again": (1, 30, 1, "{} m", "m"),
            "cm again": (5, 240, 0, "{} cm", "cm"),
            "cm close again": (5, 240, 0, "{}cm", "cm"),
            "km": (1, 80, 1, "{} km", "km"),
            "feet": (3, 40, 0, "{} feet", "feet"),
            "inches": (3, 70, 0, "{} inches", "inches"),
            "in miles": (2, 60, 0, "{} miles", "miles"),
            "metres": (2, 60, 0, "{} metres", "m"),
        },
    ),
    "volume": _measured(
        "volume",
        {
            "l": (0.5, 40, 1, "{} l", "l"),
            "L": (1, 200, 0, "{} L", "l"),
            "ml": (50, 950, 0, "{} ml", "ml"),
            "litres": (2, 60, 0, "{} litres", "l"),
            "gallons": (2, 30, 0, "{} gallons", "gallons"),
            "cubic": (2, 40, 0, "{} m³", "m³"),
        },
    ),
    "temperature": _measured(
        "temperature",
        {
            "c": (2, 90, 0, "{}°C", "°C"),
            "c spaced": (2, 90, 0, "{} °C", "°C"),
            "c decimal": (15, 42, 1, "{} °C", "°C"),
            "f": (30, 200, 0, "{}°F", "°F"),
            "degrees": (3, 39, 0, "{} degrees", "degrees"),
            "below": (-25, 0, 0, "{} °C", "°C"),
        },
    ),
    "score": _score,
    "rating": _rating,
    "code": _code,
    "url": _url,
    "file": _file,
    "version": _version,
    "ip": _ip,
    "plate": _plate,
    "flight": _flight,
    "iban": _iban,
    "error": _error,
    "path": _path,
    "size": _size,
}
KINDS = frozenset(_KINDS) | {"integer", "decimal"}
"""The kinds of values that a template may ask for."""
