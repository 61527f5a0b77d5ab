"""Requests answered by replicas, each a process with models of its own, behind one front.

``front`` takes the requests of clients, ``prefixes`` says which replica has most of a prompt already, ``hosting`` runs
the application of ``serve.app`` in a replica for the front. None of it knows what the replicas run on: ``fleet`` is the
seam, which ``serve.ray`` fills.
"""
