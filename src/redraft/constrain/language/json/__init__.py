"""JSON schemas (``schema``) and JSON texts (``text``) as expressions, and where values stand in a text (``spans``).

``keywords`` checks a document, ``merge`` joins what holds at one place of it, ``logic`` decides what is valid there.
"""

from redraft.constrain.language.json.schema import SchemaWriter
from redraft.constrain.language.json.spans import Leaf, leaves, token_spans
from redraft.constrain.language.json.text import Layout, Member, Whitespace

__all__ = ["Layout", "Leaf", "Member", "SchemaWriter", "Whitespace", "leaves", "token_spans"]
