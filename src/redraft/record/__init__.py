"""Recordings: every denoising step of a request in a small file, replayed bit for bit and compared.

``recorder`` listens, ``recording`` is the file, ``replay`` runs it again, ``compare`` finds where two runs part.
"""
