"""Redraft inside vLLM: vLLM schedules the forwards of our tasks and computes them, so that one loop serves both.

``canvases`` turns logits into what vLLM's sampler returns, and knows no vLLM; ``prepare`` makes requests of what vLLM's
server is asked for, ``carried`` takes them to its workers, and the rest hangs all three into vLLM.
"""
