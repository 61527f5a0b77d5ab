"""The GGUF format; real files come from packages that the tests depend on."""
