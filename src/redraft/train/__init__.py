"""Training: a loop that resumes, objectives, optimizers, and recipes for what ships.

``objective`` takes its steps by ``canvas.step``, the same as serving does.
"""
