"""A small model of English text: what it is trained on, and how."""
