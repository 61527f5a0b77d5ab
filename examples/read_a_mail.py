"""Reads fields from a mail, all at once, and decides what it is about, with the bundled text model.

python examples/read_a_mail.py              # the mail below
python examples/read_a_mail.py mail.txt     # your own
"""

import sys
from pathlib import Path
from typing import Any

import redraft

MAIL = """\
Hello, this is Maria Kowalski from Gdansk. The two blue kettles of order A-4821 came broken last Tuesday.
Please send me the 64.90 euros back, and write to maria.k@example.org when it is done."""
FIELDS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "customer": {"type": "string"},
        "city": {"type": ["string", "null"]},
        "order_number": {"type": ["string", "null"]},
        "product": {"type": ["string", "null"]},
        "amount": {"type": ["string", "null"]},
        "email": {"type": ["string", "null"]},
        "phone": {"type": ["string", "null"]},
    },
}
ABOUT = ["a refund is asked for", "an appointment is made", "a job is applied for", "somebody says thank you"]
WIDTH = 30


def main() -> int:
    """Read and decide; exit code 1 for a file that cannot be read, or a model that is not there."""
    try:
        mail = Path(sys.argv[1]).read_text(encoding="utf-8") if len(sys.argv) > 1 else MAIL
        engine = redraft.load()
    except (OSError, redraft.RedraftError) as error:
        print(f"read_a_mail: {error}", file=sys.stderr)
        return 1
    with engine:
        print(f"{mail}\n")
        read = engine.extract(mail, FIELDS, seed=1, verbatim=True)
        for key in FIELDS["properties"]:
            said = read.value.get(key)
            sure = read.confidence.get(f"/{key}", 0.0)
            print(f"  {key:14} {said if said is not None else '-':{WIDTH}} {sure:4.0%} sure")
        usage = read.usage
        print(f"  {len(read.value)} fields in {usage.denoising_steps} denoising steps, {usage.seconds:.2f} s\n")
        asked = f"{mail}\n\nWhat is it about? Only these answers are allowed: {' / '.join(ABOUT)}."
        decided = engine.choose([{"role": "user", "content": asked}], ABOUT, calibrated=True)
        chances = decided.answers["answer"].probabilities
        for option, chance in sorted(chances.items(), key=lambda one: -one[1]):
            print(f"  {option:{WIDTH}} {chance:6.1%} {'#' * round(20 * chance)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
