"""Keeps every step of an answer in a file, and runs it again, bit for bit."""

import tempfile
from pathlib import Path

import redraft

PUZZLE = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"

with tempfile.TemporaryDirectory() as folder, redraft.load("sudoku") as engine:
    engine.generate([{"role": "user", "content": PUZZLE}], seed=7, record=redraft.RecordingFolder(folder))
    recording = redraft.Recording.load(next(Path(folder).iterdir()))
    print(len(recording.events), "steps, kernels:", recording.computed["kernels"])
    again = redraft.replay(recording, engine)
    print("the same again:", again.identical)
    other = redraft.replay(recording, engine, seed=8)
    print("with another seed:", other.identical)
