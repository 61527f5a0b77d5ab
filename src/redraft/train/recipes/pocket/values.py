"""Values that stand in snippets: how they are drawn and written. (Drawing is written elsewhere; the kinds are fixed.)"""

KINDS = frozenset(
    "person first_name surname handle email phone job "
    "product dish drink animal plant tool garment vehicle medicine title material "
    "city country street address venue room company school team "
    "date time weekday month year duration datetime "
    "integer decimal percent money weight length volume temperature score rating "
    "code url file version ip plate flight iban error path "
    "colour language subject sport instrument size".split()
)
