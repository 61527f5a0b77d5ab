"""A GGUF file read as though it were a hub folder: its configuration, tensors by published names, and tokenizer.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md describes the container; what llama.cpp calls the tensors and
fields of an architecture stands in the module of that architecture.
"""
